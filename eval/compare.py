"""Two models on the same questions: paired differences, tests, and which questions only one gets right."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.arm_scores import ArmScore, score_arm
from eval.errors import EvaluationError
from eval.predictions import HEADLINE, Prediction, read_predictions
from eval.score_file import records_of
from eval.scoring import ids_hash
from eval.shards import PREDICTIONS
from eval.significance import holm, mcnemar_p, permutation_p

Comparison = dict[str, Any]
"""What `comparison.json` holds: `names` of both models, and `rows`, one per benchmark and score, with both scores,
their difference (`first - second`) and its interval, `p_permutation`, `p_mcnemar` (of accuracies) and `p_holm` (of
the permutation test, over all rows). `only` counts the questions that one model alone gets right."""


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
        pairs = {next(iter(runs[0])): (next(iter(runs[0].values())), next(iter(runs[1].values())))}
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


def _compare_one(
    name: str, paths: tuple[Path, Path], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = [_headline(path) for path in paths]
    records = records_of([*lines[0].values(), *lines[1].values()])
    for path, said in zip(paths, lines, strict=True):
        missing = [record.id for record in records if record.id not in said]
        if missing:
            raise EvaluationError(
                f"{path}: no answer to {missing[0]!r} and {len(missing) - 1} more that the other model answered; "
                "compare runs of the same questions"
            )
    backends: dict[str, str] = {}
    scores = [
        score_arm(records, [said[record.id]["prediction"] for record in records], backends,
                  rankings=[said[record.id].get("ranking") for record in records])
        for said in lines
    ]  # fmt: skip
    keys = [key for key in scores[0] if key in scores[1]]
    rows = [_row(name, key, scores[0][key], scores[1][key], seed) for key in keys]
    described = {
        "name": name,
        "n_records": len(records),
        "n_clips": len({record.clip for record in records}),
        "ids_sha256": ids_hash(records),
        "backends": dict(sorted(backends.items())),
    }
    return rows, described


def _headline(path: Path) -> dict[str, Prediction]:
    found: dict[str, Prediction] = {}
    for line in read_predictions(path):
        if line["control"] != HEADLINE:
            continue
        if line["id"] in found:
            raise EvaluationError(
                f"{path}: two answers to {line['id']!r}; the file holds more than one model or setting, evaluate each "
                "into a folder of its own"
            )
        found[line["id"]] = line
    return found


def _row(name: str, key: str, first: ArmScore, second: ArmScore, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "set": name,
        "score": key,
        "first": asdict(first.interval(seed)),
        "second": asdict(second.interval(seed)),
        "difference": asdict(first.gap(second, seed)),
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
