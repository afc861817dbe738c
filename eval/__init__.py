"""Evaluation.

`alm eval` reads the records of a benchmark (`eval.benchmarks`), opens the model (`eval.models`), and lets it answer
every record under every control (`eval.runner.manifest`; the controls are `eval.scoring.predictions.CONTROLS`). Then
`Benchmark.is_right` parses the answers (`eval.scoring.correctness`, `eval.parsing`), and `eval.scoring.scores` and
`eval.reports` write scores and pages.
"""
