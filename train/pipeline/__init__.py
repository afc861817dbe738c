"""Stages and recipes: run directories, reuse of finished stages, dry runs, listings of runs.

`runner.run_step` decides, by the fingerprint, whether a finished result is reused. Otherwise `rundir.begin` keeps the
checkpoints only if the fingerprint is unchanged, and `train.engine.trainer.last_checkpoint` chooses the checkpoint to
resume from.
"""
