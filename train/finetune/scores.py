"""Scores of a fine-tuned encoder and its controls, with confidence intervals: numbers and a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from alm.common.text import markdown_table
from eval.metrics import load_metric
from eval.metrics.ranking import Ranking, average_precision, class_mean, equal_error_rate
from eval.reports.score_table import format_interval
from eval.scoring.stats import N_RESAMPLES, Interval, mean_interval, weighted_interval
from train.finetune.datasets import LabelledClip, LabelledData

# Every resample sums (clips x classes) numbers: fewer resamples if these are many.
_FEW_RESAMPLES, _MANY_NUMBERS = 200, 200_000
LOWER_IS_BETTER = ("equal_error_rate",)
_SHORT = {"accuracy": "accuracy", "mean_average_precision": "mAP", "equal_error_rate": "EER"}


def metrics_of(data: LabelledData) -> tuple[str, ...]:
    """Return a data set's metrics, its main metric first."""
    others = () if data.multi_label else ("accuracy", "mean_average_precision")
    return tuple(dict.fromkeys((data.metric, *others)))


def score(data: LabelledData, metric: str, probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute one metric.

    Args:
        data: The data set; it names the class to detect.
        metric: accuracy, mean_average_precision or equal_error_rate.
        probabilities: (clips, C).
        targets: (clips, C) zeros and ones.
    """
    if metric == "accuracy":
        return float(_right(probabilities, targets).mean())
    column = _detected(data) if metric == "equal_error_rate" else slice(None)
    result = load_metric(metric).compute(predictions=probabilities[:, column], references=targets[:, column])
    assert result is not None
    return float(result[metric])


def report(
    data: LabelledData, clips: Sequence[LabelledClip], probabilities: np.ndarray, targets: np.ndarray
) -> dict[str, Any]:
    """Compute all scores of a system with clustered 95 % intervals, also for each test subset.

    Args:
        data: The data set.
        clips: The scored clips.
        probabilities: (clips, C).
        targets: (clips, C) zeros and ones.
    """
    groups = [clip.group for clip in clips]
    subsets = sorted({clip.subset for clip in clips if clip.subset is not None})
    result: dict[str, Any] = {}
    for metric in metrics_of(data):
        result[metric] = dataclasses.asdict(_interval(data, metric, probabilities, targets, groups))
    if not data.multi_label or data.metric == "mean_average_precision":
        result["n_absent_classes"] = int((targets.sum(axis=0) == 0).sum())
    if subsets:
        parts = {}
        for subset in subsets:
            rows = [i for i, clip in enumerate(clips) if clip.subset == subset]
            interval = _interval(
                data, data.metric, probabilities[rows], targets[rows], [groups[i] for i in rows]
            )
            parts[subset] = dataclasses.asdict(interval)
        result["subsets"] = parts
        result["subset_mean"] = float(np.mean([part["value"] for part in parts.values()]))
    return result


def _interval(
    data: LabelledData, metric: str, probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str]
) -> Interval:
    if metric == "accuracy":
        return mean_interval(_right(probabilities, targets).astype(float), groups, proportion=True)
    column = _detected(data) if metric == "equal_error_rate" else slice(None)
    rankings = [
        Ranking(s, y > 0)
        for s, y in zip(probabilities[:, column].T, targets[:, column].T, strict=True)
        if y.any()
    ]
    one = equal_error_rate if metric == "equal_error_rate" else average_precision

    n_resamples = _FEW_RESAMPLES if probabilities.size > _MANY_NUMBERS else N_RESAMPLES
    return weighted_interval(groups, partial(class_mean, rankings, one), n_resamples=n_resamples)


def _right(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether the most likely class is one of the clip's own."""
    right: np.ndarray = targets[np.arange(len(targets)), probabilities.argmax(axis=1)] > 0
    return right


def _detected(data: LabelledData) -> slice:
    """Return the column of the class to detect."""
    column = data.classes.index(data.positive) if data.positive in data.classes else len(data.classes) - 1
    return slice(column, column + 1)


def markdown(scores: dict[str, Any]) -> str:
    """Write the page of one run."""
    metric = scores["metric"]
    split = scores["split"]
    names = [name for name in _SHORT if any(name in system for system in scores["systems"].values())]
    rows = [
        [name, *(format_interval(system[m], "qa/") if m in system else "" for m in names)]
        for name, system in scores["systems"].items()
    ]
    lines = [
        f"# {scores['name']}: {_SHORT[metric]}",
        "",
        f"{split['train']} training, {split['validation']} validation and {split['test']} test clips, "
        f"{split['classes']} classes. 95 % intervals resample source recordings.",
        "",
        *(f"- {note}" for note in split["notes"]),
        "",
        *markdown_table(["system", *(_SHORT[name] for name in names)], rows),
    ]
    for name, system in scores["systems"].items():
        for subset, part in system.get("subsets", {}).items():
            lines.append(f"- {name}, {subset}: {_SHORT[metric]} {format_interval(part, 'qa/')}")
    return "\n".join(lines).rstrip() + "\n"


def fold_summary(name: str, folds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Summarise the scores of all folds, with mean and standard deviation, for every system."""
    first = next(iter(folds.values()))
    metric = first["metric"]
    systems = {}
    for system in first["systems"]:
        per_fold = {fold: scores["systems"][system][metric]["value"] for fold, scores in folds.items()}
        values = list(per_fold.values())
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        systems[system] = {"per_fold": per_fold, "mean": float(np.mean(values)), "sd": deviation}
    return {"name": name, "metric": metric, "folds": list(folds), "systems": systems}


def fold_markdown(summary: dict[str, Any]) -> str:
    """Write the page of a run over several folds."""
    folds = summary["folds"]
    rows = []
    for name, system in summary["systems"].items():
        spread = "" if system["sd"] is None else f" ± {100 * system['sd']:.1f}"
        cells = [f"{100 * value:.1f}" for value in system["per_fold"].values()]
        rows.append([name, *cells, f"{100 * system['mean']:.1f}{spread}"])
    table = markdown_table(["system", *(f"fold {fold}" for fold in folds), "mean ± sd"], rows)
    title = f"# {summary['name']}: {_SHORT[summary['metric']]} over {len(folds)} folds"
    return "\n".join([title, "", *table]) + "\n"
