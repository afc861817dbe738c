"""Encoder pretraining: views, masks, contrastive losses, and monitors. No text, no LLM."""
