"""BLEU, and the function of its counts that intervals are computed with."""

from eval.metrics.bleu.bleu import bleu_of

__all__ = ["bleu_of"]
