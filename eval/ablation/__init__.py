"""Ablations: a grid of arms, each trained and scored in its own processes, with tests of their differences."""

from eval.ablation.run import run_ablation

__all__ = ["run_ablation"]
