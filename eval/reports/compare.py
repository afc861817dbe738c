"""Two models on the same questions: paired differences, tests, and which questions only one gets right."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.json_text import read_json_object
from alm.data.records import Record
from eval.benchmarks import benchmark_of
from eval.errors import EvaluationError
from eval.reports.disagreements import disagreements
from eval.scoring.answer_scores import DEFAULT_METRICS, AnswerScore, is_costly, score_answers
from eval.scoring.correctness import Correctness, is_correct
from eval.scoring.predictions import CONTROLS, HEADLINE, PREDICTIONS, Prediction, read_predictions, records_of
from eval.scoring.scores import ids_hash
from eval.scoring.significance import holm, mcnemar_p, permutation_p

Comparison = dict[str, Any]
"""Contents of `comparison.json`: `names` of both models; `rows`, one per benchmark and score, with both scores, their
difference (`first - second`) and its interval, whether `lower_is_better`, `p_permutation`, `p_mcnemar` (of accuracies),
`p_holm` (of the permutation test, over all rows) and which model is `better` by it at 5 % (None where neither is);
`only` counts the questions that one model alone gets right. Per benchmark `sets` say what was compared, and under
`controls` what each model scores without the right audio, with the gap to its own score; `disagreements` name
questions that one model alone gets right."""

_SIGNIFICANT = 0.05
# Keys of `run` that lead to the recordings of an evaluation.
_WHERE = ("benchmark", "data", "split", "prompt")
# Scores that the controls are shown for.
_CONTROLLED = ("qa/overall", "caption/cider_d", "answer/wer")


def compare_runs(first: str | Path, second: str | Path, *, seed: int = 0) -> Comparison:
    """Compare the answers of two models.

    Args:
        first: A predictions file, the folder of an evaluation, or a folder of several (`MODEL/eval`, or MODEL).
        second: The same of the other model; benchmarks are paired by the names of their folders.
        seed: Seed of resampling and permutations.

    Returns:
        The comparison; see `Comparison`.

    Raises:
        EvaluationError: No predictions, no benchmark in common, or different questions.
    """
    runs = _runs(Path(first)), _runs(Path(second))
    if len(runs[0]) == len(runs[1]) == 1:
        [(folder, path)], [other] = runs[0].items(), runs[1].values()
        pairs = {_benchmark_name(path) or folder: (path, other)}
    else:
        pairs = {name: (path, runs[1][name]) for name, path in runs[0].items() if name in runs[1]}
    if not pairs:
        raise EvaluationError(
            f"no benchmark in common: {first} has {', '.join(runs[0])}, {second} has {', '.join(runs[1])}"
        )
    rows: list[dict[str, Any]] = []
    sets = []
    for name, paths in sorted(pairs.items()):
        found, described = _compare_one(name, paths, seed)
        rows += found
        sets.append(described)
    tested = [row for row in rows if row["p_permutation"] is not None]
    for row, corrected in zip(tested, holm([row["p_permutation"] for row in tested]), strict=True):
        row["p_holm"] = corrected
        gain = -row["difference"]["value"] if row["lower_is_better"] else row["difference"]["value"]
        if corrected < _SIGNIFICANT and gain:
            row["better"] = "first" if gain > 0 else "second"
    return {"version": 1, "names": [str(first), str(second)], "sets": sets, "rows": rows}


def _runs(path: Path) -> dict[str, Path]:
    """Predictions files by the name of their benchmark."""
    if path.is_file():
        return {path.parent.name: path}
    for folder in (path, path / "eval"):
        if (folder / PREDICTIONS).is_file():
            return {folder.name: folder / PREDICTIONS}
        found = {one.parent.name: one for one in sorted(folder.glob(f"*/{PREDICTIONS}"))}
        if found:
            return found
    raise EvaluationError(f"{path}: no {PREDICTIONS} there; give the folder of an evaluation")


def _benchmark_name(path: Path) -> str | None:
    """The benchmark of an evaluation, whose folder may have any name; None where only the data tell."""
    name = _stored_scores(path).get("run", {}).get("benchmark")
    return name if isinstance(name, str) and name not in ("", "manifest") else None


def _compare_one(
    name: str, paths: tuple[Path, Path], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    conditions = [_by_condition(path) for path in paths]
    answers_by_id = [found[HEADLINE] for found in conditions]
    records = records_of([*answers_by_id[0].values(), *answers_by_id[1].values()])
    for path, lines in zip(paths, answers_by_id, strict=True):
        missing = [record.id for record in records if record.id not in lines]
        if missing:
            raise EvaluationError(
                f"{path}: no answer to {missing[0]!r} and {len(missing) - 1} more that the other model answered; "
                "compare runs of the same questions"
            )
    stored = [_stored_scores(path) for path in paths]
    # The metrics of the benchmark that was run, or the default ones if it is not known.
    known = next(filter(None, (benchmark_of(one.get("run", {})) for one in stored)), None)
    metrics = known.metrics if known else DEFAULT_METRICS
    is_right = known.is_right if known else is_correct
    backends: dict[str, str] = {}
    absent: dict[str, str] = {}
    scores = [_scores(records, lines, backends, absent, metrics, is_right) for lines in answers_by_id]
    kinds = {record.kind for record in records if not record.captions}
    # All questions of one kind: their row would repeat that of all questions, and be corrected for twice.
    repeated = {f"qa/{kind}" for kind in kinds} if len(kinds) == 1 else set()
    keys = [key for key in scores[0] if key in scores[1] and key not in repeated]
    rows = [_row(name, key, scores[0][key], scores[1][key], seed) for key in keys]
    described = {
        "name": name,
        "n_records": len(records),
        "n_clips": len({record.clip for record in records}),
        "ids_sha256": ids_hash(records),
        "limited": any(one.get("limited") for one in stored),
        "backends": dict(sorted(backends.items())),
        "absent": dict(sorted(absent.items())),
        "controls": _controls(records, conditions, scores, metrics, is_right, seed),
        "only_kind": next(iter(kinds)) if repeated else None,
        "disagreements": disagreements(records, answers_by_id, is_right),
        "run": {key: value for key, value in stored[0].get("run", {}).items() if key in _WHERE},
    }
    return rows, described


def _scores(
    records: Sequence[Record],
    lines: Mapping[str, Prediction],
    backends: dict[str, str],
    absent: dict[str, str],
    metrics: Sequence[str],
    is_right: Correctness,
) -> dict[str, AnswerScore]:
    found = [lines[record.id] for record in records]
    return score_answers(
        records, [line["prediction"] for line in found], backends, metrics, absent=absent,
        rankings=[line.get("ranking") for line in found], is_right=is_right,
    )  # fmt: skip


def _controls(
    records: Sequence[Record],
    conditions: Sequence[Mapping[str, Mapping[str, Prediction]]],
    scores: Sequence[Mapping[str, AnswerScore]],
    metrics: Sequence[str],
    is_right: Correctness,
    seed: int,
) -> list[dict[str, Any]]:
    """Scores of both models under each control that both were asked under, and the gaps to their own scores."""
    rows = []
    for control in (one for one in CONTROLS if one != HEADLINE):
        if not all(record.id in found.get(control, {}) for found in conditions for record in records):
            continue
        cheap = [name for name in metrics if not is_costly(name)]
        swapped = [_scores(records, found[control], {}, {}, cheap, is_right) for found in conditions]
        for key in (key for key in _CONTROLLED if all(key in found for found in (*scores, *swapped))):
            row: dict[str, Any] = {"score": key, "control": control}
            for side, own, other in zip(("first", "second"), scores, swapped, strict=True):
                row[side] = asdict(other[key].interval(seed))
                row[f"{side}_gap"] = asdict(own[key].gap(other[key], seed))
            rows.append(row)
    return rows


def _stored_scores(path: Path) -> Mapping[str, Any]:
    """The scores that the evaluation wrote beside its predictions; empty without."""
    beside = path.parent / "scores.json"
    if not beside.is_file():
        return {}
    found = read_json_object(beside, EvaluationError, constants=True)
    if not isinstance(found.get("run", {}), dict):
        raise EvaluationError(f"{beside}: 'run' is not an object; evaluate again, or remove the file")
    return found


def _by_condition(path: Path) -> dict[str, dict[str, Prediction]]:
    """Lines by control and id; where a control was run again (as after `--limit`), the last line counts."""
    found: dict[str, dict[str, Prediction]] = {HEADLINE: {}}
    for line in read_predictions(path):
        condition = found.setdefault(line["control"], {})
        if line["id"] in condition and line["control"] == HEADLINE:
            raise EvaluationError(
                f"{path}: two answers to {line['id']!r}; the file holds more than one model or setting, evaluate each "
                "into a folder of its own"
            )
        condition[line["id"]] = line
    return found


def _row(name: str, key: str, first: AnswerScore, second: AnswerScore, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "set": name,
        "score": key,
        "first": asdict(first.interval(seed)),
        "second": asdict(second.interval(seed)),
        "difference": asdict(first.gap(second, seed)),
        "lower_is_better": first.lower_is_better,
        "better": None,
        "p_permutation": None,
        "p_mcnemar": None,
        "p_holm": None,
    }
    if first.weighted is None:
        row["p_permutation"] = permutation_p(
            first.columns, second.columns, first.clips, first.statistic, seed=seed
        )
    if first.proportion:
        right = first.columns[:, 0] > 0, second.columns[:, 0] > 0
        row["p_mcnemar"] = mcnemar_p(*right)
        row["only"] = [int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))]
    return row
