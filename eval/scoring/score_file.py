"""Scoring answers that are there already: by what a predictions file says itself, or against a benchmark."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from alm.data.records import Record
from eval.benchmarks import load_benchmark
from eval.errors import EvaluationError
from eval.runner.benchmark import answer_metrics, caption_metrics
from eval.runner.benchmark_data import read_records
from eval.runner.predictions import HEADLINE, Prediction, read_foreign_predictions, read_predictions
from eval.scoring.arm_scores import DEFAULT_CAPTION_METRICS
from eval.scoring.judges import judged_accuracy, open_judge
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
        MetricUnavailable: A required metric needs what is not here.
    """
    lines = _read(Path(path))
    more: Sequence[str] = ()
    if benchmark is None:
        records = records_of(lines)
        known = load_benchmark("clotho").metrics if any(record.captions for record in records) else ()
        metrics: Sequence[str] = caption_metrics(known) or DEFAULT_CAPTION_METRICS
        groups = list(dict.fromkeys(key for line in lines for key in line.get("groups", {})))
    else:
        one = load_benchmark(benchmark)
        records, _ = read_records(one, data or "", split, check_audio=False)
        more = answer_metrics(one.metrics)
        metrics, groups, official = caption_metrics(one.metrics), list(one.groups), official or one.official
    scores = score_predictions(
        records,
        lines,
        caption_metrics=metrics,
        require=require,
        groups=groups,
        official=official,
        answer_metrics=more,
    )
    if judge:
        said = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
        scores["judge"] = judged_accuracy(
            open_judge(judge, Path(path).parent / "judged.jsonl"), records, said
        )
        scores["notes"].append(scores["judge"]["note"])
    return scores


def records_of(lines: Iterable[Prediction]) -> list[Record]:
    """The questions that the lines of a predictions file answer, in the order of their ids.

    Raises:
        EvaluationError: A line without references.
    """
    records: dict[str, Record] = {}
    for line in lines:
        if not line.get("references"):
            raise EvaluationError(
                f"the prediction for {line['id']!r} holds no references; score it with --benchmark and --data"
            )
        references, caption = line["references"], bool(line.get("caption")) or line.get("kind") == "caption"
        answers = {} if caption or len(references) == 1 else {"answers": references}
        records[line["id"]] = Record(
            id=line["id"],
            audio=(),
            messages=({"role": "user", "content": line.get("question", "")},),
            kind=line.get("kind", "qa"),
            question=line.get("question", ""),
            answer=references[0],
            choices=tuple(line.get("choices", ())),
            captions=tuple(references) if caption else (),
            clip=str(line.get("clip", line["id"])),
            meta={**line.get("groups", {}), **answers},
            source=line["id"],
        )
    return [records[identifier] for identifier in sorted(records)]


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
