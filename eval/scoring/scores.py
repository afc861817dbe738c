"""Scores as a pure function of records and predictions: captions, questions per kind, controls, gaps, intervals."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.files import write_text_atomic
from alm.data.records import Record
from eval.errors import EvaluationError
from eval.parsing.choices import parse_choice
from eval.scoring.answer_scores import DEFAULT_METRICS, AnswerScore, is_costly, score_answers
from eval.scoring.correctness import Correctness, check_references, is_correct
from eval.scoring.official import official_score
from eval.scoring.predictions import CONTROLS, HEADLINE, Prediction

Scores = dict[str, Any]
"""The contents of `scores.json`.

- `arms`: one entry per condition: `none`, `no_audio`, `other_clip`, and other models by name. An entry has `scores`
  (name to value, low, high, n, n_clips), `n_missing` and `choice_parse_failures`. If asked for, it also has `official`
  (scores by the published rule) and `groups` (scores for each value of a key of the records).
- `gaps`: for each other condition, the paired differences `none` minus that condition, by score name.
- `backends`: how each score was computed. `absent`: scores that could not be computed, and why.
- `notes`: remarks for readers. `ids_sha256`: hash of the records' ids.

Score names are `caption/<metric>`, `qa/overall`, `qa/<kind>`, `ranking/map`, and `answer/<metric>` for metrics of free
answers. Answers that are matched with labels by text embedding give `qa/label_embedding` and
`ranking/label_embedding_map`.
"""

# Costly metrics (Java or a model) are tested on this many captions and questions before the run.
_TRIAL = 4
# Upper ends, in seconds, of the lengths that scores are broken down by.
_LENGTHS = (5.0, 10.0, 30.0)


def score_predictions(
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    *,
    extra: Mapping[str, Sequence[Prediction]] | None = None,
    limited: bool = False,
    seed: int = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    require: Sequence[str] = (),
    groups: Sequence[str] = (),
    official: str = "",
    notes: Sequence[str] = (),
    is_right: Correctness = is_correct,
) -> Scores:
    """Score a set of predictions.

    A missing prediction counts as wrong (as an empty caption), and the number of missing ones is reported.

    Args:
        records: The questions with their references.
        predictions: Lines of predictions files; every control in them becomes a condition.
        extra: Answers of other models by name, for example of one with an untrained encoder; only their
            lines with control `none` are used.
        limited: Whether the records are only a part of the benchmark, as with `--limit`.
        seed: Seed of the resampling.
        metrics: Names of metrics, see `eval.scoring.answer_scores.score_answers`; those that are not installed are
            reported as absent.
        require: Further metrics, which must not be absent.
        groups: Keys of the records' `meta` to break scores down by, besides the length of the audio.
        official: A published rule of `eval.scoring.official` to show next to ours.
        notes: Further remarks for the reader.
        is_right: Decides whether an answer to a question is right.

    Returns:
        The scores; see `Scores`.

    Raises:
        EvaluationError: A prediction for an id that no record has, two predictions of one condition for one id, or a
            record without a reference.
        MetricUnavailable: A required metric needs software or a model that is not installed.
    """
    if not records:
        raise EvaluationError("there are no records to score against; give a manifest with at least one line")
    present = {line["control"] for line in predictions}
    lines = {control: [line for line in predictions if line["control"] == control] for control in CONTROLS}
    conditions = {control: found for control, found in lines.items() if found or control == HEADLINE}
    if present - set(CONTROLS):
        raise EvaluationError(
            f"unknown control in the predictions: {', '.join(sorted(present - set(CONTROLS)))}"
        )
    for name, further in (extra or {}).items():
        if name in conditions:
            raise EvaluationError(f"the extra model {name!r} has the name of another condition; rename it")
        conditions[name] = [line for line in further if line["control"] == HEADLINE]
    found_lines = {name: _lines_of(records, found, name) for name, found in conditions.items()}
    answers = {
        name: [None if line is None else line["prediction"] for line in found]
        for name, found in found_lines.items()
    }
    backends: dict[str, str] = {}
    absent: dict[str, str] = {}
    parts = {}
    for name, said in answers.items():
        rankings = [None if line is None else line.get("ranking") for line in found_lines[name]]
        parts[name] = score_answers(records, said, backends, metrics, require, absent, rankings, is_right)
    result: Scores = {
        "version": 2,
        "n_records": len(records),
        "n_clips": len({record.clip for record in records}),
        "ids_sha256": ids_hash(records),
        "limited": limited,
        "notes": [*notes, *_notes(records, parts[HEADLINE], limited)],
        "absent": dict(sorted(absent.items())),
        "backends": dict(sorted(backends.items())),
        "arms": {},
        "gaps": {},
    }
    values = _group_values(records, found_lines[HEADLINE], [*groups, "length"])
    for name, scores in parts.items():
        condition = result["arms"][name] = {
            "scores": {key: asdict(score.interval(seed)) for key, score in scores.items()},
            "n_missing": sum(answer is None for answer in answers[name]),
            "choice_parse_failures": _parse_failures(records, answers[name]),
        }
        if official:
            condition["official"] = official_score(official, records, answers[name])
        if values:
            condition["groups"] = _broken_down(records, scores, values, seed)
        if name != HEADLINE:
            result["gaps"][name] = {
                key: asdict(parts[HEADLINE][key].gap(score, seed))
                for key, score in scores.items()
                if key in parts[HEADLINE]
            }
    return result


def check_scorable(
    records: Sequence[Record],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    require: Sequence[str] = (),
    official: str = "",
    ranked: bool = False,
    is_right: Correctness = is_correct,
    **_: Any,
) -> None:
    """Score empty answers, so that unusable data and metrics fail before the first question is answered.

    Raises:
        EvaluationError: A record cannot be scored.
        MetricError: A metric cannot score these references, or a required one is not available.
        ConfigError: No official rule has that name.
    """
    check_references(records)
    if official:
        official_score(official, records, [None] * len(records))
    costly = [name for name in [*metrics, *require] if is_costly(name)]
    cheap = [name for name in metrics if name not in costly]
    captions = [record for record in records if record.captions]
    questions = [record for record in records if not record.captions]
    few = [*captions[:_TRIAL], *questions[:_TRIAL]]
    for some, names, must in (
        (records, cheap, [name for name in require if name not in costly]),
        (few, costly, [name for name in require if name in costly]),
    ):
        rankings = [[0.0] * len(one.choices) if ranked and one.choices else None for one in some]
        score_answers(some, [""] * len(some), {}, names, must, {}, rankings, is_right)


def write_scores(path: str | os.PathLike[str], scores: Scores) -> None:
    """Write scores as JSON, completely or not at all, with keys in a stable order."""
    write_text_atomic(Path(path), json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def ids_hash(records: Sequence[Record]) -> str:
    """Hash of the ids of a set of records, whatever their order."""
    return hashlib.sha256("\n".join(sorted(record.id for record in records)).encode("utf-8")).hexdigest()


def _lines_of(
    records: Sequence[Record], lines: Sequence[Prediction], condition: str
) -> list[Prediction | None]:
    """One line per record, None if it is missing."""
    known = {record.id for record in records}
    found: dict[str, Prediction] = {}
    for line in lines:
        if line["id"] not in known:
            raise EvaluationError(
                f"the predictions hold id {line['id']!r} ({condition}), which the manifest does not; score them "
                "against the manifest they were made from"
            )
        if line["id"] in found:
            raise EvaluationError(
                f"two predictions for id {line['id']!r} ({condition}), from models {line.get('model')!r} or others; "
                "score each model's predictions by themselves"
            )
        found[line["id"]] = line
    return [found.get(record.id) for record in records]


def _group_values(
    records: Sequence[Record], lines: Sequence[Prediction | None], groups: Sequence[str]
) -> dict[str, list[str]]:
    """For each grouping key, the value of every record; keys with only one distinct value are dropped."""
    values = {}
    for group in groups:
        found = [str(record.meta.get(group) or "") for record in records]
        if group == "length":
            found = ["" if line is None else _length_name(line.get("duration_s")) for line in lines]
        if len(set(found)) > 1:
            values[group] = [value or "not given" for value in found]
    return values


def _length_name(seconds: float | None) -> str:
    if seconds is None:
        return ""
    low = 0.0
    for high in _LENGTHS:
        if seconds <= high:
            return f"{low:g} to {high:g} s"
        low = high
    return f"over {low:g} s"


def _broken_down(
    records: Sequence[Record], scores: Mapping[str, AnswerScore], values: Mapping[str, list[str]], seed: int
) -> dict[str, dict[str, Any]]:
    """Accuracy, metrics of answers and CIDEr-D (with the whole set's word weights) per value of each group."""
    questions = [index for index, record in enumerate(records) if not record.captions]
    rows = {
        "qa/overall": questions,
        "caption/cider_d": [index for index, record in enumerate(records) if record.captions],
        **{key: questions for key in scores if key.startswith("answer/")},
    }
    result: dict[str, dict[str, Any]] = {}
    for group, of_record in values.items():
        by_value: dict[str, Any] = {}
        for value in sorted(set(of_record)):
            found = {}
            for key, at in rows.items():
                if key not in scores:
                    continue
                chosen = np.array([of_record[index] == value for index in at])
                if chosen.any():
                    part = scores[key].of_samples(np.flatnonzero(chosen))
                    if part is not None:
                        found[key] = asdict(part.interval(seed))
            if found:
                by_value[value] = found
        result[group] = by_value
    return result


def _parse_failures(records: Sequence[Record], answers: Sequence[str | None]) -> dict[str, Any]:
    """How many answers to multiple-choice questions name no choice, or no single one."""
    asked = [(record, answer) for record, answer in zip(records, answers, strict=True) if record.choices]
    failed = sum(answer is None or parse_choice(answer, record.choices) is None for record, answer in asked)
    return {"n": failed, "of": len(asked), "rate": failed / len(asked) if asked else None}


def _notes(records: Sequence[Record], scores: Mapping[str, AnswerScore], limited: bool) -> list[str]:
    notes = []
    asked = [record for record in records if not record.captions]
    if asked and all(record.choices for record in asked):
        chance = sum(1 / len(set(record.choices)) for record in asked) / len(asked)
        notes.append(f"Picking a choice at random answers {100 * chance:.1f} % of the questions right.")
    clips = {record.clip for record in records if record.captions}
    if "caption/cider_d" in scores and len(clips) == 1:
        notes.append(
            "CIDEr-D of a single clip is 0 by definition: it weighs words by how few of the scored clips have them."
        )
    if limited:
        notes.append(f"Only the first {len(records)} records were scored (--limit).")
        if "caption/cider_d" in scores:
            notes.append(
                "CIDEr-D weighs words by how rare they are in the scored references: with --limit it does not "
                "compare with the score of the whole set."
            )
    return notes
