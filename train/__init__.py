"""Training stages.

`alm train CONFIG` parses the config of a stage (`train.stage.parse_stage`) or of a recipe of several
(`train.pipeline.recipe`). `train.pipeline.runner.run_stage` checks the inputs, decides by their fingerprint whether the
result is reused, resumed or computed again, and calls the stage's `run`, which trains with `train.engine.trainer.fit`
and writes the artifact.
"""
