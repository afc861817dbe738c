"""A comparison of two models as text, Markdown and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.common.text import text_table
from eval.reports.charts import Panel, forest_chart, interval_chart
from eval.reports.disagreements import as_examples
from eval.reports.findings import comparison_findings
from eval.reports.names import model_names
from eval.reports.pages import html_page, markdown_page
from eval.reports.published import published_sections
from eval.reports.score_report import interval_cell, score_name, triple
from eval.reports.score_table import format_p
from eval.reports.sections import Cell, Picture, Section, Table

_SHARES = ("qa/", "ranking/")
_CONTROLS_HEADING = "Does it listen?"

Row = list[str | Cell]


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as plain text."""
    names = _names(comparison)
    lines = [f"{name}: {path}" for name, path in zip(names, comparison["names"], strict=True)]
    rows = [[row["set"], *map(str, _cells(row, names))] for row in comparison["rows"]]
    lines += ["", *text_table(("set", *_head(names)), rows)]
    if controls := _control_cells(comparison["sets"]):
        head = ("set", *_control_head(names))
        lines += ["", *text_table(head, [[str(cell) for cell in row] for row in controls]), ""]
    return "\n".join([*lines, *_findings(comparison), *_remarks(comparison)])


def write_comparison(out_dir: str | Path, comparison: Mapping[str, Any]) -> Path:
    """Write `comparison.json`, `comparison.md` and `comparison.html`; returns the page's path."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomic(folder / "comparison.json", text)
    names = _names(comparison)
    title = f"{names[0]} against {names[1]}"
    shows = Section("What this shows", findings=_findings(comparison))
    remarks = Section("How to read this", notes=_remarks(comparison))
    scored: list[Row] = [[row["set"], *_cells(row, names)] for row in comparison["rows"]]
    tables = [Section("Scores", tables=[Table(("set", *_head(names)), scored)])]
    if controls := _control_cells(comparison["sets"]):
        head = ("set", *_control_head(names))
        tables.append(Section(_CONTROLS_HEADING, tables=[Table(head, controls)]))
    for one in comparison["sets"]:
        tables += _published(comparison, one, names)
    write_text_atomic(folder / "comparison.md", markdown_page(title, [shows, *tables, remarks]))
    path = folder / "comparison.html"
    sections = [part for one in comparison["sets"] for part in _set_sections(comparison, one, names)]
    write_text_atomic(path, html_page(title, [shows, *sections, remarks]))
    return path


def _names(comparison: Mapping[str, Any]) -> tuple[str, str]:
    first, second = comparison["names"]
    return model_names(first, second)


def _findings(comparison: Mapping[str, Any]) -> list[str]:
    return comparison_findings(comparison, _names(comparison))


def _set_sections(
    comparison: Mapping[str, Any], one: Mapping[str, Any], names: Sequence[str]
) -> list[Section]:
    """One benchmark: its scores, whether both models listen, and clips on which they differ."""
    rows = [row for row in comparison["rows"] if row["set"] == one["name"]]
    scores = interval_chart(
        {
            score_name(row["score"]): [triple(row["first"]), triple(row["second"])]
            for row in rows
            if row["score"].startswith(_SHARES)
        },
        names,
        title=f"Accuracy on {one['name']}, 95 % intervals",
    )
    limited = ", only the first records of the benchmark (--limit)" if one["limited"] else ""
    controls = [row[1:] for row in _control_cells([one])]
    tables = [Table(_control_head(names), controls)] if controls else []
    label = f"Scores on {one['name']}"
    return [
        Section(
            one["name"],
            lead=f"{one['n_records']} records, {one['n_clips']} clips{limited}",
            tables=[Table(_head(names), [_cells(row, names) for row in rows], label)],
            pictures=[chart for chart in (_forest(rows, one["name"], names), scores) if chart],
        ),
        Section(_CONTROLS_HEADING, tables=tables, level=3),
        *_published(comparison, one, names),
        Section("Where they differ", examples=as_examples(one["disagreements"], one["run"], names), level=3),
    ]


def _forest(rows: Sequence[Mapping[str, Any]], name: str, names: Sequence[str]) -> Picture | None:
    """Paired differences: accuracies on one axis, every other score on its own."""
    ahead = (f"{names[1]} better", f"{names[0]} better")
    shares = {score_name(row["score"]): _difference(row) for row in rows if row["score"].startswith(_SHARES)}
    panels = [Panel("points", shares, True, ahead)]
    for row in (row for row in rows if not row["score"].startswith(_SHARES)):
        sides = ahead[::-1] if row["lower_is_better"] else ahead
        panels.append(Panel("difference", {score_name(row["score"]): _difference(row)}, False, sides))
    return forest_chart(panels, title=f"{names[0]} minus {names[1]} on {name}, paired, 95 % intervals")


def _difference(row: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return row["difference"]["value"], row["difference"]["low"], row["difference"]["high"]


def _published(comparison: Mapping[str, Any], one: Mapping[str, Any], names: Sequence[str]) -> list[Section]:
    rows = [row for row in comparison["rows"] if row["set"] == one["name"]]
    results = {
        name: {row["score"]: row[side] for row in rows}
        for name, side in zip(names, ("first", "second"), strict=True)
    }
    for scores in results.values():  # questions of one kind have one row, that of all questions
        if one["only_kind"] and "qa/overall" in scores:
            scores[f"qa/{one['only_kind']}"] = scores["qa/overall"]
    return published_sections(
        one["run"], results, n_records=one["n_records"], limited=one["limited"], level=3
    )


def _head(names: Sequence[str]) -> tuple[str, ...]:
    return ("score", "n", *names, "difference", "better", "p", "p (Holm)", "McNemar", "only one right")


def _control_head(names: Sequence[str]) -> tuple[str, ...]:
    return ("score", "control", names[0], f"gap of {names[0]}", names[1], f"gap of {names[1]}")


def _control_cells(sets: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each model's score without the right audio, and the gap to its own score."""
    return [
        [one["name"], row["score"], row["control"].replace("_", " "),
         *(interval_cell(row[side], row["score"], signed=side.endswith("gap"))
           for side in ("first", "first_gap", "second", "second_gap"))]
        for one in sets for row in one["controls"]
    ]  # fmt: skip


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> Row:
    key = row["score"]
    only = row.get("only")
    named = dict(zip(("first", "second"), names, strict=True))
    return [
        f"{key} (lower is better)" if row["lower_is_better"] else key,
        str(row["first"]["n"]),
        interval_cell(row["first"], key),
        interval_cell(row["second"], key),
        interval_cell(row["difference"], key, signed=True),
        named.get(row["better"], "–"),
        *(format_p(row[test]) for test in ("p_permutation", "p_holm", "p_mcnemar")),
        "–" if only is None else f"{only[0]} / {only[1]}",
    ]


def _remarks(comparison: Mapping[str, Any]) -> list[str]:
    names = _names(comparison)
    named = dict(zip(("first", "second"), names, strict=True))
    n_tests = sum(row["p_permutation"] is not None for row in comparison["rows"])
    backends = sorted({label for one in comparison["sets"] for label in one["backends"].values()})
    remarks = [
        f"Difference: {names[0]} minus {names[1]}, paired, 95 % interval over clips. p: paired permutation test that "
        f"swaps whole clips; Holm corrects for all {n_tests} scores. McNemar takes questions for independent. Better: "
        "by p (Holm) at 5 %. Only one right: questions that only the first named, only the second gets right.",
    ]
    if any(one["controls"] for one in comparison["sets"]):
        remarks.append(
            "Gap: a model's score minus its own without audio or with another clip's; around 0 it does not listen."
        )
    for one in comparison["sets"]:
        if one["limited"]:
            remarks.append(
                f"{one['name']}: a run with --limit; its CIDEr-D, if any, does not compare with that of the whole set."
            )
        if one["disagreements"]:
            shown = ", ".join(f"{part['id']} ({named[part['right']]})" for part in one["disagreements"])
            remarks.append(f"{one['name']}: questions that only one model gets right, for example {shown}.")
        remarks += [f"{one['name']}: {metric} is absent: {why}." for metric, why in one["absent"].items()]
    return [*remarks, f"Computed by {', '.join(backends)}."]
