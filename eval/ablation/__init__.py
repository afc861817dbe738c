"""Ablations: a grid of arms, run as processes of `alm train` and `alm eval`, and what the test supports of it."""

from eval.ablation.run import run_ablation

__all__ = ["run_ablation"]
