"""Score existing answers: by the references in a predictions file, or against a benchmark."""

import os
from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks import load_benchmark
from eval.benchmarks._base import CAPTION_METRICS
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError
from eval.scoring.answer_scores import DEFAULT_METRICS
from eval.scoring.correctness import Correctness, is_correct
from eval.scoring.judges import judged_accuracy, open_judge
from eval.scoring.predictions import (
    HEADLINE,
    Prediction,
    read_foreign_predictions,
    read_predictions,
    records_of,
)
from eval.scoring.scores import Scores, score_predictions


def score_file(
    path: str | os.PathLike[str],
    *,
    benchmark: str | None = None,
    data: str | None = None,
    split: str = "",
    official: str = "",
    require: Sequence[str] = (),
    judge: str | None = None,
) -> Scores:
    """Score a file of answers.

    Args:
        path: A predictions file of this toolkit, or JSON objects with an id and an answer.
        benchmark: Score against all questions of this benchmark, so that missing answers are seen; None takes the
            questions from the file, which then has to be a predictions file.
        data: Where the benchmark's data is; recordings need not be there.
        split: Which split of it.
        official: A published rule to show beside ours; the benchmark's own where it has one.
        require: Metrics that must be computed.
        judge: An OpenAI-compatible URL or a local model that also judges short answers.

    Returns:
        The scores; see `eval.scoring.scores.Scores`.

    Raises:
        EvaluationError: The file cannot be read, or does not fit the benchmark.
        MetricUnavailable: A required metric needs software or a model that is not installed.
    """
    if benchmark is None and (data or split):
        raise EvaluationError(
            f"{'data' if data else 'split'}: belongs to a benchmark; name it with --benchmark NAME"
        )
    lines = _read(Path(path))
    is_right: Correctness = is_correct
    if benchmark is None:
        records = records_of(lines)
        captions = any(record.captions for record in records)
        metrics: Sequence[str] = CAPTION_METRICS if captions else DEFAULT_METRICS
        groups = list(dict.fromkeys(key for line in lines for key in line.get("groups", {})))
    else:
        known = load_benchmark(benchmark)
        records = read_records(known, data or "", split, check_audio=False).records
        metrics, groups, official = known.metrics, list(known.groups), official or known.official
        is_right = known.is_right
    scores = score_predictions(
        records, lines, metrics=metrics, require=require, groups=groups, official=official, is_right=is_right
    )
    if judge:
        said = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
        scores["judge"] = judged_accuracy(
            open_judge(judge, Path(path).parent / "judged.jsonl"), records, said
        )
        scores["notes"].append(scores["judge"]["note"])
    return scores


def _read(path: Path) -> list[Prediction]:
    try:
        lines = read_predictions(path)
        # A file without a line break is not one that was cut off in its first line, but another kind of file.
        if lines or not path.stat().st_size:
            return lines
        raise EvaluationError("no line ends in it")
    except EvaluationError:
        if not path.is_file():
            raise
        try:
            return read_foreign_predictions(path)
        except EvaluationError as error:
            raise EvaluationError(
                f"{path}: neither a predictions file nor JSON objects with an id and an answer ({error})"
            ) from error
