"""The kinds of training stages: one file each, which declares options, checks, dry run, run and artifact.

The work itself is in `train/pretrain`, `train/finetune`, `train/tune`; `train/pipeline` runs stages in
their directories.
"""
