"""Alignment and instruction tuning: conversations as batches for encoder, projector and LLM."""
