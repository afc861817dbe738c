"""The report of scores: headline numbers with their controls, tables, charts, clips and training curves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import AudioError
from alm.common.files import write_text_atomic
from alm.data.records import AudioRef, Record
from eval.reports.charts import Triple, interval_chart, line_chart
from eval.reports.findings import headline_score, score_findings
from eval.reports.names import without_folders
from eval.reports.pages import html_page
from eval.reports.score_table import condition_remarks, format_interval
from eval.reports.sections import Card, Cell, Example, Picture, Section, Table
from eval.scoring.confusions import verdict_of
from eval.scoring.correctness import Correctness, is_correct
from eval.scoring.predictions import HEADLINE
from eval.scoring.scores import Scores

logger = logging.getLogger(__name__)

# At which rate clips are played.
EXAMPLE_HZ = 16000

CONDITION_NAMES = {
    HEADLINE: "model",
    "no_audio": "no audio",
    "other_clip": "another clip's audio",
    "qformer": "Q-Former",
}

_CARDS = {
    "answer/wer": "word error rate",
    "answer/wer_whisper": "word error rate (Whisper's text)",
    "answer/bleu_mt": "BLEU",
    "qa/overall": "questions answered right",
    "caption/cider_d": "captions, CIDEr-D",
}

Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Baseline:
    """A score of a simpler method, to compare the model's score with.

    Attributes:
        name: What it is.
        score: What is measured, for example "what is this sound, accuracy".
        value: The score; accuracies between 0 and 1.
        n: Samples it was measured on.
        low: Lower end of the 95 % interval, where there is one.
        high: Upper end.
        model_value: The model's score on the same samples, where it was measured.
    """

    name: str
    score: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    model_value: float | None = None


def write_score_page(
    path: str | Path,
    *,
    title: str,
    scores: Mapping[str, Scores],
    curves: Mapping[str, Curve] | None = None,
    answers: Sequence[Section] = (),
    facts: Mapping[str, object] | None = None,
    baselines: Sequence[Baseline] = (),
    published: Sequence[Section] = (),
) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Args:
        path: The file; its folder must exist.
        title: Heading of the page.
        scores: Per model or test set its scores, as `eval.scoring.scores.score_predictions` returns them.
        curves: Per training stage its log: dicts with `step` and any numbers whose name holds "loss".
        answers: The answers themselves, see `eval.reports.answers`.
        facts: What was run: data, model, seed, time, versions.
        baselines: Scores of simpler methods.
        published: Figures of others, see `eval.reports.published`.

    Raises:
        UserError: The file cannot be written.
    """
    sections: list[Section] = []
    for name, one in scores.items():
        heading = "Scores" if len(scores) == 1 else f"Scores: {name}"
        sections += score_sections(one, heading, "" if len(scores) == 1 else f": {name}")
    charts = [curve_chart(stage, curve) for stage, curve in (curves or {}).items()]
    sections += [
        Section("Simpler methods on the same clips", tables=_baseline_tables(baselines)),
        *published,
        *answers,
        Section("Training", pictures=[chart for chart in charts if chart]),
        Section("What was run", facts=without_folders(facts or {})),
    ]
    write_text_atomic(Path(path), html_page(title, sections))


def score_sections(scores: Scores, heading: str, of: str = "") -> list[Section]:
    """Findings, headline numbers, table, chart and remarks of one set of scores, and its breakdowns.

    Args:
        scores: The scores.
        heading: Heading of the section with the score table.
        of: Text appended to the other headings, such as `: NAME`.
    """
    chart = _score_chart(scores)
    found = [
        Section(f"What this shows{of}", findings=score_findings(scores)),
        Section(
            heading,
            lead=f"{scores['n_records']} records about {scores['n_clips']} clips. Accuracies in percent, with 95 % "
            "intervals from resampling clips.",
            cards=_cards(scores),
            tables=[score_table(scores)],
            pictures=[chart] if chart else [],
            notes=_remarks(scores),
        ),
    ]
    for group, values in scores["arms"][HEADLINE].get("groups", {}).items():
        by_value = _group_chart(group, values)
        tables = [_group_table(group, values)]
        found.append(Section(f"By {group}", tables=tables, pictures=[by_value] if by_value else []))
    return found


def condition_name(condition: str) -> str:
    """An arm's name for readers."""
    return CONDITION_NAMES.get(condition, condition.replace("_", " "))


def score_table(scores: Scores) -> Table:
    """All scores of all conditions, and the gap to another clip's audio."""
    conditions = list(scores["arms"])
    gaps = {f"model minus {condition_name(c)}": gap for c, gap in scores["gaps"].items() if c == "other_clip"}
    rows: list[list[str | Cell]] = []
    totals = set()
    for key, own in scores["arms"][HEADLINE]["scores"].items():
        cells = [interval_cell(scores["arms"][condition]["scores"].get(key), key) for condition in conditions]
        cells += [interval_cell(gap.get(key), key, signed=True) for gap in gaps.values()]
        if key == "qa/overall":
            totals.add(len(rows))
        rows.append([score_name(key), str(own["n"]), *cells])
    head = ["score", "n", *map(condition_name, conditions), *gaps]
    return Table(head, rows, "Scores and their controls", frozenset(totals))


def interval_cell(score: Mapping[str, Any] | None, key: str, signed: bool = False) -> Cell:
    """A score with its interval below it; a dash where there is none."""
    if score is None:
        return Cell("–")
    value, _, interval = format_interval(score, key, signed=signed).partition(" ")
    return Cell(value, interval)


def curve_chart(stage: str, curve: Curve) -> Picture | None:
    """The losses of one stage over its steps; None where it logged none."""
    names = sorted({key for row in curve for key in row if "loss" in key and not isinstance(row[key], str)})
    # The training loss first: the first series has the plainest style.
    names.sort(key=lambda name: name != "loss")
    series = {
        name: [(row["step"], row[name]) for row in curve if row.get(name) is not None and "step" in row]
        for name in names
    }
    last = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in series.items() if points)
    return line_chart(series, x_label="step", y_label="loss", title=f"{stage}: loss over steps", detail=last)


def clip_waveform(ref: AudioRef) -> np.ndarray | None:
    """A clip (S,) as a page plays it, at `EXAMPLE_HZ`; None, with a warning, where it cannot be read."""
    try:
        return ref.load(EXAMPLE_HZ)
    except AudioError as error:
        logger.warning("not shown in the report: %s", error)
        return None


def example_of(
    record: Record, answer: str, captions: Sequence[str] = (), is_right: Correctness = is_correct
) -> Example | None:
    """A question with its clip and an answer, as a page shows it; None if it has no clip, or one that cannot be read.

    Args:
        record: The question.
        answer: The answer.
        captions: Further captions of the clip.
        is_right: Decides whether the answer is right.
    """
    waveform = clip_waveform(record.audio[0]) if record.audio else None
    if waveform is None:
        return None
    return Example(
        waveform,
        EXAMPLE_HZ,
        record.question,
        record.references[0],
        answer,
        kind=record.kind,
        captions=tuple(captions),
        verdict=verdict_of(record, answer, is_right),
        title=record.clip,
    )


def _cards(scores: Scores) -> list[Card]:
    """The headline numbers, each with its control."""
    own = scores["arms"][HEADLINE]["scores"]
    other = scores["arms"].get("other_clip", {}).get("scores", {})
    cards = []
    for key, label in _CARDS.items():
        if key not in own:
            continue
        percent = " %" if key.startswith("qa/") else ""
        cell = interval_cell(own[key], key)
        notes = [f"95 % interval {cell.note}"] if cell.note else []
        if key in other:
            notes.append(f"with another clip's audio {interval_cell(other[key], key).text}{percent}")
        cards.append(Card(f"{cell.text}{percent}", label, notes))
    return cards


def score_name(key: str) -> str:
    """A score's name for readers."""
    known = {
        "caption/bleu_4": "caption BLEU\u20114",
        "caption/rouge_l": "caption ROUGE\u2011L",
        "caption/cider_d": "caption CIDEr\u2011D",
        "qa/overall": "all questions",
        "answer/wer": "word error rate",
        "answer/wer_whisper": "word error rate (Whisper's text)",
        "answer/cer": "character error rate",
        "answer/bleu_mt": "BLEU",
        "answer/chrf": "chrF",
    }
    return known.get(key, key.removeprefix("qa/").removeprefix("answer/").replace("_", " "))


def _score_chart(scores: Scores) -> Picture | None:
    conditions = list(scores["arms"])
    keys = [key for key in scores["arms"][HEADLINE]["scores"] if key.startswith("qa/")]
    rows = {
        score_name(key): [triple(scores["arms"][name]["scores"].get(key)) for name in conditions]
        for key in keys
    }
    title = "Accuracy per kind of question, 95 % intervals"
    return interval_chart(rows, [*map(condition_name, conditions)], title=title)


def triple(score: Mapping[str, Any] | None) -> Triple | None:
    """A score as (value, low, high)."""
    return None if score is None else (score["value"], score["low"], score["high"])


def _group_chart(group: str, values: Mapping[str, Mapping[str, Any]]) -> Picture | None:
    """The headline score per value of a breakdown."""
    keys = list(dict.fromkeys(key for found in values.values() for key in found))
    if not keys:
        return None
    key = headline_score(keys)
    rows = {
        f"{value} ({found[key]['n']})": [triple(found[key])]
        for value, found in values.items()
        if key in found
    }
    percent = key.startswith("qa/")
    name = "Accuracy" if percent else score_name(key)
    return interval_chart(rows, title=f"{name} by {group}, 95 % intervals", percent=percent)


def _group_table(group: str, values: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for found in values.values() for key in found))
    rows: list[list[str | Cell]] = [
        [value, str(next(iter(found.values()))["n"]), *(interval_cell(found.get(key), key) for key in keys)]
        for value, found in values.items()
    ]
    return Table([group, "n", *map(score_name, keys)], rows, f"Scores by {group}")


def _remarks(scores: Scores) -> list[str]:
    remarks = [*scores["notes"], *condition_remarks(scores)]
    remarks += [f"{metric} is absent: {why}." for metric, why in scores.get("absent", {}).items()]
    return [*remarks, f"Computed by {', '.join(sorted(set(scores['backends'].values())))}."]


def _baseline_tables(baselines: Sequence[Baseline]) -> list[Table]:
    if not baselines:
        return []
    rows: list[list[str | Cell]] = []
    for one in baselines:
        score = {"value": one.value, "low": one.low, "high": one.high}
        own = None if one.model_value is None else {"value": one.model_value, "low": None, "high": None}
        cells = [interval_cell(score, "qa/"), interval_cell(own, "qa/")]
        rows.append([one.name, one.score, str(one.n), *cells])
    return [Table(["baseline", "score", "n", "baseline, %", "model, %"], rows, "Baselines")]
