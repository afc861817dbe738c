"""Stage `instruct`: the same as `align`, on questions and answers; usually starts from an aligned model."""

from __future__ import annotations

from train.stages.align import TuneStage

STAGE = TuneStage()
