"""The findings of a report in three sentences; each states only what an interval or a test supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.metrics import find_metric
from eval.reports.score_table import format_interval, stated_p
from eval.scoring.predictions import CONTROLS, HEADLINE

# Transcripts, translations and lists of events are also compared whole, as `qa/overall`, which says less.
_HEADLINE_NAMES = {
    "answer/wer": "Word error rate",
    "answer/wer_whisper": "Word error rate",
    "answer/bleu_mt": "BLEU",
    "answer/segment_f1": "Segment F1",
    "answer/judge_score": "Rating by the judge",
    "qa/overall": "Questions answered right",
    "caption/cider_d": "Captions by CIDEr\u2011D",
}
_NO_KINDS = ("qa/overall", "qa/balanced", "qa/label_embedding")
_UNTRAINED = "untrained_encoder"


def lower_is_better(key: str) -> bool:
    """Whether a score counts errors."""
    return key.startswith(("answer/", "caption/")) and find_metric(key.partition("/")[2])[1].lower_is_better


def headline_score(names: Sequence[str]) -> str:
    """The score that a report is about: accuracy, or the first of the known ones, or the first."""
    return next((key for key in _HEADLINE_NAMES if key in names), names[0])


def score_findings(scores: Mapping[str, Any]) -> list[str]:
    """Whether the model uses the audio, what the training of its encoder contributes, and where it is weak.

    Args:
        scores: See `eval.scoring.scores.Scores`.
    """
    own = scores["arms"][HEADLINE]["scores"]
    if not own:
        return []
    key = headline_score(list(own))
    return [_listens(scores, key), _buys(scores, key), _weak(scores, key)]


def _name(key: str) -> str:
    return _HEADLINE_NAMES.get(key, _kind_of(key))


def _kind_of(key: str) -> str:
    return key.partition("/")[2].replace("_", " ")


def _listens(scores: Mapping[str, Any], key: str) -> str:
    arms, gaps = scores["arms"], scores["gaps"]
    result = f"{_name(key)}: {number(arms[HEADLINE]['scores'][key], key)}"
    control = next((one for one in ("other_clip", "no_audio") if key in gaps.get(one, {})), "")
    if not control:
        return f"{result}; no control was run, so nothing here shows whether the model listens."
    said = "with another clip's audio" if control == "other_clip" else "without audio"
    against = f"{result}, {said} {number(arms[control]['scores'][key], key)}"
    gap, better = gaps[control][key], _sign(gaps[control][key], key)
    if better > 0:
        return f"{against}: the model listens (difference {number(gap, key, signed=True)})."
    if better < 0:
        return f"{against}: the right audio makes it worse ({number(gap, key, signed=True)})."
    return (
        f"{against}: nothing here shows that the model listens (difference {number(gap, key, signed=True)}, "
        f"{_undecided(gap)})."
    )


def _buys(scores: Mapping[str, Any], key: str) -> str:
    gaps = {name: found[key] for name, found in scores["gaps"].items() if key in found}
    if _UNTRAINED in gaps:
        gap = gaps[_UNTRAINED]
        told = f"{number(gap, key, signed=True)} against an untrained encoder"
        return {
            1: f"Pretraining the encoder helps: {told}.",
            -1: f"Pretraining the encoder hurts: {told}.",
            0: f"Pretraining buys nothing here: {told}, {_undecided(gap)}.",
        }[_sign(gap, key)]
    others = {name: gap for name, gap in gaps.items() if name not in CONTROLS}
    if others:
        name, gap = next(iter(others.items()))
        told = number(gap, key, signed=True)
        verdict = {1: "better than", -1: "worse than", 0: "not shown to differ from"}[_sign(gap, key)]
        return f"The model is {verdict} {name.replace('_', ' ')} ({told})."
    if "other_clip" in gaps and "no_audio" in gaps:
        guessed = number(scores["arms"]["no_audio"]["scores"][key], key)
        return f"Without any audio it reaches {guessed}: that much can be answered from the questions alone."
    return "Nothing here shows what the encoder's training buys: no other model was asked."


def _weak(scores: Mapping[str, Any], key: str) -> str:
    """The weakest kind of question, and the kinds in which no test shows that the model uses the audio."""
    own = scores["arms"][HEADLINE]["scores"]
    kinds = {name: own[name] for name in own if name.startswith("qa/") and name not in _NO_KINDS}
    if key == "qa/overall" and len(kinds) > 1:
        low, high = (pick(kinds, key=lambda name: float(kinds[name]["value"])) for pick in (min, max))
        told = (
            f"Weakest in {_kind_of(low)} ({number(kinds[low], low)}), strongest in {_kind_of(high)} "
            f"({number(kinds[high], high)})"
        )
        gaps = scores["gaps"].get("other_clip") or scores["gaps"].get("no_audio") or {}
        deaf = [_kind_of(name) for name in kinds if name in gaps and _sign(gaps[name], name) < 1]
        if not gaps:
            return f"{told}."
        return f"{told}; " + (
            f"nothing shows that it listens in {', '.join(deaf)}."
            if deaf
            else "it listens in every kind, each tested by itself."
        )
    groups = scores["arms"][HEADLINE].get("groups", {})
    spread = {
        f"{group} {value}": found[key]
        for group, values in groups.items()
        for value, found in values.items()
        if key in found and found[key]["value"] is not None
    }
    if len(spread) > 1:
        sign = -1 if lower_is_better(key) else 1
        name = min(spread, key=lambda one: sign * float(spread[one]["value"]))
        return f"Weakest at {name} ({number(spread[name], key)}, n = {spread[name]['n']})."
    failures = scores["arms"][HEADLINE]["choice_parse_failures"]
    if failures["of"]:
        return f"{failures['n']} of {failures['of']} multiple-choice answers name no single choice."
    return "All answers are of one kind: nothing here shows where the model is weak."


def comparison_findings(comparison: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Which of two models is better, on which scores, and whether both use the audio.

    Args:
        comparison: See `eval.reports.compare.Comparison`.
        names: Names of both models, in the comparison's order.
    """
    named = dict(zip(("first", "second"), names, strict=True))
    told, parts, deaf, controlled = [], [], set(), False
    for one in comparison["sets"]:
        rows = [row for row in comparison["rows"] if row["set"] == one["name"]]
        if not rows:
            continue
        key = headline_score([row["score"] for row in rows])
        row = next(row for row in rows if row["score"] == key)
        told.append(f"on {one['name']} {_better(row, named)}")
        parts += [
            f"{_kind_of(part['score'])} ({named[part['better']]})"
            for part in rows
            if part["better"] and part["score"].startswith("qa/") and part is not row
        ]
        for found in one["controls"]:
            if found["control"] == "other_clip" and found["score"] == key:
                controlled = True
                deaf |= {side for side in named if _sign(found[f"{side}_gap"], key) < 1}
    if not told:
        return []
    first = "; ".join(told)
    second = (
        f"By kind of question a difference is shown in {', '.join(parts)}; in no other."
        if parts
        else "In no single kind of question a difference is shown."
    )
    third = (
        "No control with another clip's audio was run on both, so nothing shows whether they listen."
        if not controlled
        else "Both listen: each scores better with the right audio than with another clip's."
        if not deaf
        else f"Nothing shows that {' and '.join(named[side] for side in named if side in deaf)} "
        "listens: another clip's audio serves as well somewhere."
    )
    return [f"{first[0].upper()}{first[1:]}.", second, third]


def _better(row: Mapping[str, Any], named: Mapping[str, str]) -> str:
    key = row["score"]
    told = (
        f"{_name(key)} {number(row['first'], key)} against {number(row['second'], key)}, difference "
        f"{number(row['difference'], key, signed=True)}, {stated_p(row['p_holm'])} after Holm"
    )
    if row["better"]:
        return f"{named[row['better']]} is better ({told})"
    return f"no difference between {named['first']} and {named['second']} is shown ({told})"


def number(interval: Mapping[str, Any], key: str, *, signed: bool = False) -> str:
    """A score with its interval, shares in percent and their differences in points."""
    text = format_interval(interval, key, signed=signed)
    if not key.startswith("qa/"):
        return text
    value, _, ends = text.partition(" ")
    return f"{value} {'points' if signed else '%'} {ends}".rstrip()


def _sign(gap: Mapping[str, Any], key: str) -> int:
    """1 where a difference is shown to be an improvement, -1 to be a loss, 0 where its interval includes 0."""
    low, high = gap["low"], gap["high"]
    if low is None or high is None or low <= 0 <= high:
        return 0
    return -1 if (high < 0) != lower_is_better(key) else 1


def _undecided(gap: Mapping[str, Any]) -> str:
    return "which includes 0" if gap["low"] is not None else "too few clips for an interval"
