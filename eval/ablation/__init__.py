"""Ablations: a grid of arms, each trained and scored in its own processes, and the differences that tests support."""

from eval.ablation.run import run_ablation

__all__ = ["run_ablation"]
