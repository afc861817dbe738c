"""Parses answers: which choice or short answer a text names. Deterministic; never guesses."""
