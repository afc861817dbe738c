"""Clips on which two models differ: questions that only one of them answers right, to read and to hear."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from alm.common.errors import UserError
from alm.data.records import AudioRef, Record
from eval.benchmarks import benchmark_of
from eval.benchmarks._data import read_records
from eval.reports.score_report import EXAMPLE_HZ, clip_waveform
from eval.reports.sections import Example
from eval.scoring.correctness import Correctness, is_correct
from eval.scoring.predictions import Prediction

logger = logging.getLogger(__name__)

_MAX_PER_MODEL = 6


def disagreements(
    records: Sequence[Record],
    lines: Sequence[Mapping[str, Prediction]],
    is_right: Correctness = is_correct,
) -> list[dict[str, Any]]:
    """Questions that only one of the models answers right, at most one per clip.

    Args:
        records: The questions.
        lines: The answers of both models by id.
        is_right: Decides whether an answer is right.

    Returns:
        Per question `id`, `clip`, `kind`, `question`, `reference`, both `answers`, and which model is `right`.
    """
    found: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
    clips: set[str] = set()
    for record in records:
        if record.captions or record.clip in clips:
            continue
        answers = [by_id[record.id]["prediction"] for by_id in lines]
        right = [is_right(record, answer) for answer in answers]
        side = "first" if right[0] else "second"
        if right[0] == right[1] or len(found[side]) == _MAX_PER_MODEL:
            continue
        clips.add(record.clip)
        found[side].append(
            {
                "id": record.id,
                "clip": record.clip,
                "kind": record.kind,
                "question": record.question,
                "reference": record.references[0],
                "answers": answers,
                "right": side,
            }
        )
    return [*found["first"], *found["second"]]


def _recordings(run: Mapping[str, Any]) -> dict[str, AudioRef]:
    """The first recording of every question of an evaluation, for recordings that still exist."""
    benchmark, data = benchmark_of(run), run.get("data")
    if benchmark is None or not data:
        return {}
    try:
        records = read_records(benchmark, data, run.get("split", ""), check_audio=False).records
    except UserError as error:
        logger.warning("no recordings in the comparison: %s", error)
        return {}
    return {record.id: record.audio[0] for record in records if record.audio}


def as_examples(
    found: Sequence[Mapping[str, Any]], run: Mapping[str, Any], names: Sequence[str]
) -> list[Example]:
    """Disagreements whose recordings can be read, as a page shows them.

    Args:
        found: The result of `disagreements`.
        run: The entry `run` of `scores.json`; its `benchmark`, `data` and `split` lead to the recordings.
        names: Names of both models.
    """
    named = dict(zip(("first", "second"), names, strict=True))
    recordings = _recordings(run) if found else {}
    examples = []
    for one in (one for one in found if one["id"] in recordings):
        waveform = clip_waveform(recordings[one["id"]])
        if waveform is None:
            continue
        first, second = one["answers"]
        examples.append(
            Example(
                waveform,
                EXAMPLE_HZ,
                one["question"],
                one["reference"],
                f"{names[0]}: {first or 'nothing'}\n{names[1]}: {second or 'nothing'}",
                kind=one["kind"],
                verdict=f"only {named[one['right']]} is right",
                title=one["clip"],
            )
        )
    return examples
