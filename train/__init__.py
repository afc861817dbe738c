"""Training stages.

`alm train CONFIG` parses the config of a stage (`train.stage.parse_stage`) or of a recipe of several
(`train.pipeline.recipe`). `train.pipeline.runner.run_stage` checks the inputs; `run_step` decides by the fingerprint
whether the result is reused, resumed or computed again. Then the stage's `run` trains with `train.engine.trainer.fit`
and writes the artifact.
"""
