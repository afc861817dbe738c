"""Encoder pretraining: views, masks, contrastive losses, and what watches them. No text, no LLM."""
