"""Stages and recipes: run directories, reuse of finished stages, dry runs, listings of runs.

`runner.run_step` decides about reuse and resume, `train.engine.trainer.last_checkpoint` from which checkpoint.
"""
