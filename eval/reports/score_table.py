"""Scores as plain text: a table with intervals, and remarks."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

from eval.scoring.predictions import HEADLINE


def format_scores(scores: Mapping[str, Any]) -> str:
    """A plain-text table of scores: one row per score, one column per condition, with 95 % intervals and gaps.

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
    lines += [f"Note: {note}" for note in scores["notes"]]
    return "\n".join([*lines, *condition_remarks(scores), *breakdown_lines(scores)])


def format_interval(interval: Mapping[str, Any], name: str, *, signed: bool = False) -> str:
    """One score with its interval as text: `85.3 [82.1, 88.0]`, accuracies in percent."""
    scale, digits = (100, 1) if name.startswith("qa/") else (1, 3)
    sign = "+" if signed else ""
    value, low, high = (
        None if interval[end] is None else f"{interval[end] * scale:{sign}.{digits}f}"
        for end in ("value", "low", "high")
    )
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def format_p(p: float | None) -> str:
    """A p-value as text; a dash where there was no test."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def stated_p(p: float | None) -> str:
    """A p-value within a sentence: `p = 0.012`, or `p < 0.001`."""
    text = format_p(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def breakdown_lines(scores: Mapping[str, Any]) -> list[str]:
    """The model's scores per value of each breakdown, as lines."""
    lines = []
    for group, values in scores["arms"][HEADLINE].get("groups", {}).items():
        lines.append(f"By {group}:")
        for value, found in values.items():
            cells = [f"{key} {format_interval(one, key)}" for key, one in found.items()]
            lines.append(f"  {value} (n={next(iter(found.values()))['n']}): {', '.join(cells)}")
    return lines


def condition_remarks(scores: Mapping[str, Any]) -> list[str]:
    """Remarks on each condition: missing and unparsed answers, and the score of the published rule."""
    remarks = []
    for name, condition in scores["arms"].items():
        label = "model" if name == HEADLINE else name.replace("_", " ")
        if condition["n_missing"]:
            remarks.append(f"{label}: {condition['n_missing']} predictions missing, counted as wrong")
        failures = condition["choice_parse_failures"]
        if failures["n"]:
            remarks.append(
                f"{label}: {failures['n']} of {failures['of']} multiple-choice answers name no single choice"
            )
        if "official" in condition:
            remarks.append(f"{label}: {official_remark(condition)}")
    return remarks


def official_remark(condition: Mapping[str, Any]) -> str:
    """The published rule's number beside ours, in one line."""
    official = condition["official"]
    if official["value"] is None:
        return f"official rule ({official['rule']}): no answers"
    ours = condition["scores"]["qa/overall"]
    text = (
        f"official rule ({official['rule']}): {100 * official['value']:.1f} % "
        f"of the {official['n_answered']} answered, {100 * official['strict']:.1f} % with the missing as wrong"
    )
    if ours["n"] != official["n_records"]:  # ours also counts questions without choices
        return f"{text}, of {official['n_records']} questions with choices"
    return f"{text}; ours {100 * ours['value']:.1f} % ({100 * (ours['value'] - official['strict']):+.1f})"
