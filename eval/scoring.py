"""Scores as a pure function of records and predictions: captions, questions per kind, controls, gaps, intervals."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from alm.manifest import Record, write_text_atomic
from eval.errors import EvaluationError
from eval.mentions import options_for
from eval.metrics import load_metric
from eval.metrics.bleu import bleu_of
from eval.normalise import answers_match
from eval.parsing import PARSER_VERSION, parse_choice
from eval.predictions import CONTROLS, Prediction
from eval.stats import Interval, difference_interval, mean_interval, ratio_interval

Scores = dict[str, Any]
"""What `scores.json` holds.

`arms`: per arm (`none`, `no_audio`, `other_clip`, extra arms) `scores` (name to value, low, high, n, n_clips),
`n_missing` and `choice_parse_failures`; `gaps`: per other arm the paired difference `none` minus it under the same
names; `backends`: how each number was made; `notes`: what a reader has to know beside the numbers. Names are
`caption/bleu_4`, `caption/rouge_l`, `caption/cider_d`, `qa/overall` and `qa/<kind>`.
"""

HEADLINE = "none"
CAPTION_SCORES = ("bleu_4", "rouge_l", "cider_d")


@dataclass(frozen=True)
class _Score:
    """Per-sample numbers behind one score of one arm: sums of `columns` through `statistic` give the score."""

    columns: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray]
    clips: list[str]
    proportion: bool = False

    def interval(self, seed: int) -> Interval:
        if self.proportion:
            return mean_interval(self.columns[:, 0], self.clips, proportion=True, seed=seed)
        return ratio_interval(self.columns, self.clips, self.statistic, seed=seed)


def score_predictions(
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    *,
    extra: Mapping[str, Sequence[Prediction]] | None = None,
    limited: bool = False,
    seed: int = 0,
) -> Scores:
    """Score a set of predictions.

    A prediction that is missing counts as wrong (as an empty caption), and the number missing is reported.

    Args:
        records: The questions with their references.
        predictions: Lines of predictions files; every control in them becomes an arm.
        extra: Further arms by name, such as the same questions asked of a model with an untrained encoder; of
            their lines those of control `none` count.
        limited: Whether the records are only a part of the benchmark, as with `--limit`.
        seed: Seed of the resampling.

    Returns:
        The scores; see `Scores`.

    Raises:
        EvaluationError: A prediction for an id that no record has, two predictions of one arm for one id, or a
            record without a reference.
    """
    if not records:
        raise EvaluationError("there are no records to score against; give a manifest with at least one line")
    present = {line["control"] for line in predictions}
    lines = {control: [line for line in predictions if line["control"] == control] for control in CONTROLS}
    arms = {control: found for control, found in lines.items() if found or control == HEADLINE}
    if present - set(CONTROLS):
        raise EvaluationError(
            f"unknown control in the predictions: {', '.join(sorted(present - set(CONTROLS)))}"
        )
    for name, further in (extra or {}).items():
        if name in arms:
            raise EvaluationError(f"the extra arm {name!r} is there already; give it another name")
        arms[name] = [line for line in further if line["control"] == HEADLINE]
    answers = {name: _answers(records, found, name) for name, found in arms.items()}
    backends: dict[str, str] = {}
    parts = {name: _score_arm(records, found, backends) for name, found in answers.items()}
    result: Scores = {
        "version": 1,
        "n_records": len(records),
        "n_clips": len({record.clip for record in records}),
        "limited": limited,
        "notes": _notes(parts[HEADLINE], limited, len(records)),
        "backends": dict(sorted(backends.items())),
        "arms": {},
        "gaps": {},
    }
    for name, scores in parts.items():
        result["arms"][name] = {
            "scores": {key: asdict(score.interval(seed)) for key, score in scores.items()},
            "n_missing": sum(answer is None for answer in answers[name]),
            "choice_parse_failures": _parse_failures(records, answers[name]),
        }
        if name != HEADLINE:
            result["gaps"][name] = {
                key: asdict(_gap(parts[HEADLINE][key], score, seed)) for key, score in scores.items()
            }
    return result


def write_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Write scores as JSON, whole or not at all, in an order that is stable to compare."""
    write_text_atomic(Path(path), json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def format_scores(scores: Scores) -> str:
    """A plain-text table of scores: one row per score, one column per arm, with 95 % intervals and gaps.

    Args:
        scores: What `score_predictions` returned.

    Returns:
        Text of several lines; accuracies in percent, caption scores as they are.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{scores['n_records']} records, {scores['n_clips']} clips, 95 % intervals")
    table.add_column("score")
    table.add_column("n", justify="right")
    others = [name for name in scores["arms"] if name != HEADLINE]
    for name in [HEADLINE, *others]:
        table.add_column("model" if name == HEADLINE else name.replace("_", " "), justify="right")
    if "other_clip" in scores["gaps"]:
        table.add_column("gap to other clip", justify="right")
    for key, own in scores["arms"][HEADLINE]["scores"].items():
        cells = [format_interval(scores["arms"][name]["scores"][key], key) for name in [HEADLINE, *others]]
        gap = scores["gaps"].get("other_clip", {}).get(key)
        table.add_row(key, str(own["n"]), *cells, *([format_interval(gap, key, signed=True)] if gap else []))
    text = StringIO()
    console = Console(
        file=text, width=max(80, 34 + 24 * (len(table.columns) - 2)), markup=False, color_system=None
    )
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, *(f"Note: {note}" for note in scores["notes"]), *_arm_remarks(scores)])


def format_interval(interval: Mapping[str, Any], name: str, *, signed: bool = False) -> str:
    """One score with its interval as text: `85.3 [82.1, 88.0]`, accuracies in percent."""
    scale, digits = (100, 1) if name.startswith("qa/") else (1, 3)
    sign = "+" if signed else ""
    value = f"{interval['value'] * scale:{sign}.{digits}f}"
    if interval["low"] is None:
        return value
    return (
        f"{value} [{interval['low'] * scale:{sign}.{digits}f}, {interval['high'] * scale:{sign}.{digits}f}]"
    )


def is_correct(record: Record, prediction: str) -> bool:
    """Whether an answer to a question is right: the right choice, or equal to a reference after normalisation."""
    if not record.choices:
        return any(answers_match(prediction, reference) for reference in record.references)
    options = options_for(record.choices)
    right = options.same_as[record.choices.index(record.references[0])]
    return parse_choice(prediction, record.choices) == right


def _answers(records: Sequence[Record], lines: Sequence[Prediction], arm: str) -> list[str | None]:
    """One answer per record, None where it is missing."""
    known = {record.id for record in records}
    found: dict[str, str] = {}
    for line in lines:
        if line["id"] not in known:
            raise EvaluationError(
                f"the predictions hold id {line['id']!r} ({arm}), which the manifest does not; score them against "
                "the manifest they were made from"
            )
        if line["id"] in found:
            raise EvaluationError(
                f"two predictions for id {line['id']!r} ({arm}), from models {line.get('model')!r} or others; "
                "score each model's predictions by themselves"
            )
        found[line["id"]] = line["prediction"]
    return [found.get(record.id) for record in records]


def _score_arm(
    records: Sequence[Record], answers: list[str | None], backends: dict[str, str]
) -> dict[str, _Score]:
    for record in records:
        if not record.references:
            raise EvaluationError(
                f"{record.source}: the record has no reference answer; add 'answer' or 'captions'"
            )
    pairs = list(zip(records, answers, strict=True))
    captions = [(record, answer) for record, answer in pairs if record.captions]
    questions = [(record, answer) for record, answer in pairs if not record.captions]
    return {**_caption_scores(captions, backends), **_question_scores(questions, backends)}


def _caption_scores(pairs: list[tuple[Record, str | None]], backends: dict[str, str]) -> dict[str, _Score]:
    if not pairs:
        return {}
    predictions = [answer or "" for _, answer in pairs]
    references = [list(record.captions) for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    scores = {}
    for name in CAPTION_SCORES:
        result = load_metric(name.removesuffix("_4")).compute(predictions=predictions, references=references)
        assert result is not None  # None only in multi-process evaluate runs
        backends[f"caption/{name}"] = result["backend"]
        if name == "bleu_4":
            columns = np.asarray(result["counts"], dtype=np.float64)
            scores[f"caption/{name}"] = _Score(columns, _bleu_4, clips)
        else:
            scores[f"caption/{name}"] = _mean_score(result["per_sample"], clips)
    return scores


def _question_scores(pairs: list[tuple[Record, str | None]], backends: dict[str, str]) -> dict[str, _Score]:
    if not pairs:
        return {}
    right = [float(answer is not None and is_correct(record, answer)) for record, answer in pairs]
    kinds = [record.kind for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    scores = {"qa/overall": _mean_score(right, clips, proportion=True)}
    for kind in sorted(set(kinds)):
        at = [index for index, other in enumerate(kinds) if other == kind]
        scores[f"qa/{kind}"] = _mean_score([right[i] for i in at], [clips[i] for i in at], proportion=True)
    for key in scores:
        backends[key] = f"accuracy[normalise=1,parse_choice={PARSER_VERSION}]"
    return scores


def _mean_score(values: Sequence[float], clips: list[str], proportion: bool = False) -> _Score:
    columns = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return _Score(columns, _ratio, clips, proportion)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _bleu_4(sums: np.ndarray) -> np.ndarray:
    return np.asarray(bleu_of(sums)[:, 3])


def _gap(first: _Score, second: _Score, seed: int) -> Interval:
    """Paired difference of two arms: both are computed on the same resampled clips."""
    if first.proportion:
        return difference_interval(
            first.columns[:, 0], second.columns[:, 0], first.clips, proportion=True, seed=seed
        )
    width = first.columns.shape[1]
    columns = np.hstack([first.columns, second.columns])
    return ratio_interval(
        columns,
        first.clips,
        lambda sums: first.statistic(sums[:, :width]) - second.statistic(sums[:, width:]),
        seed=seed,
    )


def _parse_failures(records: Sequence[Record], answers: list[str | None]) -> dict[str, Any]:
    """How many answers to multiple-choice questions name no choice, or no single one."""
    asked = [(record, answer) for record, answer in zip(records, answers, strict=True) if record.choices]
    failed = sum(answer is None or parse_choice(answer, record.choices) is None for record, answer in asked)
    return {"n": failed, "of": len(asked), "rate": failed / len(asked) if asked else None}


def _notes(scores: Mapping[str, _Score], limited: bool, n_records: int) -> list[str]:
    notes = []
    if limited:
        notes.append(f"Only the first {n_records} records were scored (--limit).")
        if "caption/cider_d" in scores:
            notes.append(
                "CIDEr-D weighs words by how rare they are in the scored references: with --limit it does not "
                "compare with the score of the whole set."
            )
    return notes


def _arm_remarks(scores: Scores) -> list[str]:
    remarks = []
    for name, arm in scores["arms"].items():
        label = "model" if name == HEADLINE else name.replace("_", " ")
        if arm["n_missing"]:
            remarks.append(f"{label}: {arm['n_missing']} predictions missing, counted as wrong")
        failures = arm["choice_parse_failures"]
        if failures["n"]:
            remarks.append(
                f"{label}: {failures['n']} of {failures['of']} multiple-choice answers name no single choice"
            )
    return remarks
