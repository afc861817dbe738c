"""Seeds: their range."""

SEEDS = 2**32
"""Seeds are 0 to this number, less one: the range of numpy's, and so of transformers', generators."""
