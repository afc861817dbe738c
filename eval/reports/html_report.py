"""The report: one HTML file that holds everything it shows, for a phone or a desk, in light and dark."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import AudioError
from alm.common.files import write_text_atomic
from alm.data.records import AudioRef
from eval.reports.charts import (
    data_address,
    flac_bytes,
    interval_chart,
    legend,
    line_chart,
    png_bytes,
    spectrogram_png,
)
from eval.reports.page import page
from eval.reports.score_table import official_remark
from eval.scoring.scores import HEADLINE, Scores, format_interval

logger = logging.getLogger(__name__)

# Seconds of a clip that are put into the page; a half-hour recording would make it too heavy to open.
MOST_SOUND_S = 60.0
# At which rate clips are played.
EXAMPLE_HZ = 16000

ARM_NAMES = {
    HEADLINE: "model",
    "no_audio": "no audio",
    "other_clip": "another clip's audio",
    "qformer": "Q-Former",
}

Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Example:
    """One test clip with a question about it.

    Attributes:
        waveform: (S,) float32 in [-1, 1].
        sample_rate: In Hz.
        question: What was asked.
        reference: The right answer, or a caption.
        answer: What the model said.
        kind: Kind of question.
        captions: Further captions of the clip.
        correct: Whether the answer is right; None where that is not a matter of right and wrong.
        title: Name of the clip.
        spectrogram: (rows, columns, 4) picture in [0, 1]; None draws one from the waveform.
    """

    waveform: np.ndarray
    sample_rate: int
    question: str
    reference: str
    answer: str
    kind: str = "qa"
    captions: tuple[str, ...] = ()
    correct: bool | None = None
    title: str = ""
    spectrogram: np.ndarray | None = None


@dataclass(frozen=True)
class Baseline:
    """A score of something simpler, to hold the model's score against.

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


@dataclass
class _Page:
    """Pieces of a page in order."""

    parts: list[str] = field(default_factory=list)

    def section(self, heading: str, *content: str) -> None:
        body = "".join(content)
        if body:
            self.parts.append(f"<section><h2>{escape(heading)}</h2>{body}</section>")


def write_report(
    path: str | Path,
    *,
    title: str,
    scores: Mapping[str, Scores],
    curves: Mapping[str, Curve] | None = None,
    examples: Sequence[Example] = (),
    facts: Mapping[str, object] | None = None,
    baselines: Sequence[Baseline] = (),
) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Args:
        path: The file; its folder must exist.
        title: Heading of the page.
        scores: Per model or test set its scores, as `eval.scoring.scores.score_predictions` returns them.
        curves: Per training stage its log: dicts with `step` and any numbers whose name holds "loss".
        examples: Clips to show and play.
        facts: What was run: data, model, seed, time, versions.
        baselines: Scores of something simpler.

    Raises:
        ManifestError: The file cannot be written.
    """
    parts = _Page()
    for name, one in scores.items():
        heading = "Scores" if len(scores) == 1 else f"Scores: {name}"
        parts.section(heading, _cards(one), _score_table(one), _score_chart(one), _remarks(one))
        for group, values in one["arms"][HEADLINE].get("groups", {}).items():
            parts.section(f"By {group}", _group_chart(group, values))
    parts.section("Beside simpler means", _baseline_table(baselines))
    parts.section("Test clips", example_list(examples))
    parts.section("Training", *(_curve_figure(stage, curve) for stage, curve in (curves or {}).items()))
    parts.section("What was run", _fact_list(facts or {}))
    write_text_atomic(Path(path), page(title, "\n".join(parts.parts)))


def _arm_name(arm: str) -> str:
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def _cards(scores: Scores) -> str:
    """The two numbers a reader looks for first, each beside its control."""
    own = scores["arms"][HEADLINE]["scores"]
    other = scores["arms"].get("other_clip", {}).get("scores", {})
    cards = []
    for key, label in (("qa/overall", "questions answered right"), ("caption/cider_d", "captions, CIDEr-D")):
        if key not in own:
            continue
        percent = " %" if key.startswith("qa/") else ""
        beside = f"with another clip's audio {_value(other[key], key)}{percent}" if key in other else ""
        interval = _range(own[key], key)
        cards.append(
            f'<div class="card"><p class="big">{_value(own[key], key)}{percent}</p><p>{escape(label)}</p>'
            f'<p class="quiet">{interval and f"95 % interval {interval}"}</p>'
            f'<p class="quiet">{escape(beside)}</p></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _score_table(scores: Scores) -> str:
    arms = list(scores["arms"])
    gap = "other_clip" in scores["gaps"]
    head = "".join(f'<th scope="col">{escape(_arm_name(arm))}</th>' for arm in arms)
    head += '<th scope="col">model minus another clip</th>' if gap else ""
    rows = []
    for key, own in scores["arms"][HEADLINE]["scores"].items():
        cells = "".join(_cell(scores["arms"][arm]["scores"].get(key), key) for arm in arms)
        cells += _cell(scores["gaps"]["other_clip"].get(key), key, signed=True) if gap else ""
        strong = ' class="total"' if key == "qa/overall" else ""
        rows.append(
            f'<tr{strong}><th scope="row">{escape(_score_name(key))}</th><td>{own["n"]}</td>{cells}</tr>'
        )
    about = (
        f"{scores['n_records']} records about {scores['n_clips']} clips. Accuracies in percent, with 95 % intervals "
        "from resampling clips."
    )
    table = _table(
        "Scores and their controls",
        f'<thead><tr><th scope="col">score</th><th scope="col">n</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>',
    )
    return f'<p class="quiet">{escape(about)}</p>{table}'


def _table(label: str, inner: str) -> str:
    """A table that scrolls by itself where the screen is narrow, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>{inner}</table></div>'


def _cell(score: Mapping[str, Any] | None, key: str, signed: bool = False) -> str:
    if score is None:
        return "<td>–</td>"
    return f"<td>{_value(score, key, signed)}<small>{_range(score, key, signed)}</small></td>"


def _value(score: Mapping[str, Any], key: str, signed: bool = False) -> str:
    return escape(format_interval({**score, "low": None}, key, signed=signed))


def _range(score: Mapping[str, Any], key: str, signed: bool = False) -> str:
    text = format_interval(score, key, signed=signed)
    return escape(text.partition(" ")[2])


def _score_name(key: str) -> str:
    known = {
        "caption/bleu_4": "caption BLEU\u20114",
        "caption/rouge_l": "caption ROUGE\u2011L",
        "caption/cider_d": "caption CIDEr\u2011D",
        "qa/overall": "all questions",
    }
    return known.get(key, key.removeprefix("qa/").replace("_", " "))


def _score_chart(scores: Scores) -> str:
    arms = list(scores["arms"])
    keys = [key for key in scores["arms"][HEADLINE]["scores"] if key.startswith("qa/")]
    rows: dict[str, list[tuple[float, float | None, float | None] | None]] = {}
    for key in keys:
        found = [scores["arms"][arm]["scores"].get(key) for arm in arms]
        rows[_score_name(key)] = [(one["value"], one["low"], one["high"]) if one else None for one in found]
    chart = interval_chart(
        rows, title="Accuracy per kind of question with 95 % intervals; the numbers are in the table"
    )
    if not chart:
        return ""
    return f"<figure>{chart}{legend([_arm_name(arm) for arm in arms])}</figure>"


def _group_chart(group: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy per value of what scores are broken down by."""
    rows: dict[str, list[tuple[float, float | None, float | None] | None]] = {}
    for value, found in values.items():
        if one := found.get("qa/overall"):
            rows[f"{value} ({one['n']})"] = [(one["value"], one["low"], one["high"])]
    chart = interval_chart(rows, title=f"Accuracy by {group} with 95 % intervals")
    return f"<figure>{chart}</figure>" if chart else ""


def _remarks(scores: Scores) -> str:
    remarks = list(scores["notes"])
    for arm, one in scores["arms"].items():
        if one["n_missing"]:
            remarks.append(f"{_arm_name(arm)}: {one['n_missing']} predictions missing, counted as wrong.")
    unread = {_arm_name(arm): one["choice_parse_failures"] for arm, one in scores["arms"].items()}
    counts = [
        f"{arm} {failures['n']} of {failures['of']}" for arm, failures in unread.items() if failures["of"]
    ]
    if counts:
        remarks.append(f"Multiple-choice answers that name no single choice: {', '.join(counts)}.")
    remarks += [
        f"{_arm_name(arm)}: {official_remark(one)}."
        for arm, one in scores["arms"].items()
        if "official" in one
    ]
    remarks += [f"{metric} is absent: {why}." for metric, why in scores.get("absent", {}).items()]
    backends = ", ".join(sorted(set(scores["backends"].values())))
    remarks.append(f"Computed by {backends}.")
    return f'<ul class="quiet">{"".join(f"<li>{escape(remark)}</li>" for remark in remarks)}</ul>'


def _baseline_table(baselines: Sequence[Baseline]) -> str:
    if not baselines:
        return ""
    rows = []
    for one in baselines:
        score = {"value": one.value, "low": one.low, "high": one.high}
        model = "–" if one.model_value is None else _value({"value": one.model_value}, "qa/")
        rows.append(
            f'<tr><th scope="row">{escape(one.name)}</th><td>{escape(one.score)}</td><td>{one.n}</td>'
            f"{_cell(score, 'qa/')}<td>{model}</td></tr>"
        )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("baseline", "score", "n", "baseline, %", "model, %")
    )
    return _table("Baselines", f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>")


def _curve_figure(stage: str, curve: Curve) -> str:
    names = sorted({key for row in curve for key in row if "loss" in key and not isinstance(row[key], str)})
    # The training loss first: the first series has the plainest style.
    names.sort(key=lambda name: name != "loss")
    series = {
        name: [(row["step"], row[name]) for row in curve if row.get(name) is not None and "step" in row]
        for name in names
    }
    chart = line_chart(
        series, x_label="step", y_label="loss", title=f"Loss of the stage {stage} over its steps"
    )
    last = [f"{name} {points[-1][1]:.3f}" for name, points in series.items() if points]
    text = f"{escape(stage)} <small>{escape(', '.join(last))}</small>"
    return f"<figure><figcaption>{text}</figcaption>{chart}</figure>" if chart else ""


def sound_of(ref: AudioRef) -> np.ndarray | None:
    """A clip (S,) as a page plays it, at `EXAMPLE_HZ`; None, with a warning, where it cannot be read."""
    try:
        return ref.load(EXAMPLE_HZ)
    except AudioError as error:
        logger.warning("not shown in the report: %s", error)
        return None


def example_list(examples: Sequence[Example]) -> str:
    """Clips with sound, spectrogram, question and answer, as HTML."""
    if not examples:
        return ""
    return (
        f'<div class="examples">{"".join(_example(one, i) for i, one in enumerate(examples, start=1))}</div>'
    )


def _example(example: Example, number: int) -> str:
    seconds = len(example.waveform) / example.sample_rate
    shown = example.waveform[: int(MOST_SOUND_S * example.sample_rate)]
    pixels = example.spectrogram
    picture = spectrogram_png(shown, example.sample_rate) if pixels is None else png_bytes(pixels)
    name = example.title or f"clip {number}"
    cut = f" (the first {MOST_SOUND_S:.0f} s here)" if len(shown) < len(example.waveform) else ""
    axis = f"{seconds:.1f} s{cut}, 0 to {example.sample_rate / 2000:g} kHz"
    verdicts = {True: '<b class="right">✓ right</b>', False: '<b class="wrong">✗ wrong</b>', None: ""}
    answer = escape(example.answer) or "<i>nothing</i>"
    captions = "".join(f"<li>{escape(text)}</li>" for text in example.captions)
    more = (
        f"<details><summary>captions of this clip</summary><ul>{captions}</ul></details>" if captions else ""
    )
    return (
        f'<article><h3>{escape(name)} <span class="kind">{escape(example.kind.replace("_", " "))}</span></h3>'
        f'<img src="{data_address("image/png", picture)}" alt="Spectrogram of {escape(name)}, {escape(axis)}">'
        f'<p class="quiet">{escape(axis)}</p>'
        f'<audio controls preload="none" src="{data_address("audio/flac", flac_bytes(shown, example.sample_rate))}" '
        f'aria-label="Play {escape(name)}"></audio>'
        f'<dl><dt>Question</dt><dd class="lines">{escape(example.question)}</dd>'
        f'<dt>Reference</dt><dd class="lines">{escape(example.reference)}</dd>'
        f'<dt>Answer</dt><dd class="lines">{answer} {verdicts[example.correct]}</dd>'
        f"</dl>{more}</article>"
    )


def _fact_list(facts: Mapping[str, object]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>' if rows else ""
