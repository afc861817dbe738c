"""A comparison of two models as text, Markdown and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.common.text import text_table
from eval.reports.charts import interval_chart
from eval.reports.disagreements import as_examples
from eval.reports.pages import html_page, markdown_page
from eval.reports.score_report import triple
from eval.reports.score_table import format_interval, format_p
from eval.reports.sections import Section, Table

_HEAD = ("set", "score", "n", "first", "second", "difference", "better", "p", "p (Holm)", "McNemar",
         "only first / only second")  # fmt: skip
_CONTROL_HEAD = ("set", "score", "control", "first", "gap to first", "second", "gap to second")
_CONTROLS_HEADING = "Does it listen?"


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as plain text."""
    lines = [_names(comparison), ""]
    lines += text_table(_HEAD, [_cells(row) for row in comparison["rows"]])
    if controls := _control_cells(comparison):
        lines += ["", *text_table(_CONTROL_HEAD, controls), ""]
    return "\n".join([*lines, *_remarks(comparison)])


def write_comparison(out_dir: str | Path, comparison: Mapping[str, Any]) -> Path:
    """Write `comparison.json`, `comparison.md` and `comparison.html`; returns the page's path."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomic(folder / "comparison.json", text)
    names = Section("", lead=_names(comparison))
    remarks = Section("How to read this", notes=_remarks(comparison))
    tables = [Section("Scores", tables=[Table(_HEAD, list(map(_cells, comparison["rows"])))])]
    if controls := _control_cells(comparison):
        tables.append(Section(_CONTROLS_HEADING, tables=[Table(_CONTROL_HEAD, controls)]))
    write_text_atomic(folder / "comparison.md", markdown_page("Comparison", [names, *tables, remarks]))
    path = folder / "comparison.html"
    sections = [part for one in comparison["sets"] for part in _set_sections(comparison, one)]
    write_text_atomic(path, html_page("Comparison", [names, *sections, remarks]))
    return path


def _names(comparison: Mapping[str, Any]) -> str:
    return "first: {}\nsecond: {}".format(*comparison["names"])


def _set_sections(comparison: Mapping[str, Any], one: Mapping[str, Any]) -> list[Section]:
    """One benchmark: its scores, whether both models listen, and clips on which they differ."""
    rows = [row for row in comparison["rows"] if row["set"] == one["name"]]
    chart = interval_chart(
        {
            row["score"].removeprefix("qa/"): [triple(row["first"]), triple(row["second"])]
            for row in rows
            if row["score"].startswith(("qa/", "ranking/"))
        },
        ["first", "second"],
        title=f"Accuracy on {one['name']}, 95 % intervals",
    )
    limited = ", only the first records of the benchmark (--limit)" if one["limited"] else ""
    controls = [cells[1:] for cells in _control_cells({"sets": [one]})]
    tables = [Table(_CONTROL_HEAD[1:], controls)] if controls else []
    return [
        Section(
            one["name"],
            lead=f"{one['n_records']} records, {one['n_clips']} clips{limited}",
            tables=[Table(_HEAD[1:], [_cells(row)[1:] for row in rows], f"Scores on {one['name']}")],
            pictures=[chart] if chart else [],
        ),
        Section(_CONTROLS_HEADING, tables=tables, level=3),
        Section("Where they differ", examples=as_examples(one["disagreements"], one["run"]), level=3),
    ]


def _control_cells(comparison: Mapping[str, Any]) -> list[list[str]]:
    """What each model scores without the right audio, and how far its own score is from that."""
    return [
        [one["name"], row["score"], row["control"].replace("_", " "),
         *(format_interval(row[side], row["score"], signed=side.endswith("gap"))
           for side in ("first", "first_gap", "second", "second_gap"))]
        for one in comparison["sets"] for row in one["controls"]
    ]  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[str]:
    key = row["score"]
    only = row.get("only")
    return [
        row["set"],
        f"{key} (lower is better)" if row["lower_is_better"] else key,
        str(row["first"]["n"]),
        format_interval(row["first"], key),
        format_interval(row["second"], key),
        format_interval(row["difference"], key, signed=True),
        row["better"] or "–",
        *(format_p(row[test]) for test in ("p_permutation", "p_holm", "p_mcnemar")),
        "–" if only is None else f"{only[0]} / {only[1]}",
    ]


def _remarks(comparison: Mapping[str, Any]) -> list[str]:
    n_tests = sum(row["p_permutation"] is not None for row in comparison["rows"])
    backends = sorted({label for one in comparison["sets"] for label in one["backends"].values()})
    remarks = [
        "Difference: first minus second, paired, 95 % interval over clips. p: paired permutation test that swaps whole "
        f"clips; Holm corrects for all {n_tests} scores. McNemar takes questions for independent. Better: by p (Holm) "
        "at 5 %.",
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
            shown = ", ".join(f"{part['id']} ({part['right']})" for part in one["disagreements"])
            remarks.append(f"{one['name']}: questions that only one model gets right, for example {shown}.")
        remarks += [f"{one['name']}: {metric} is absent: {why}." for metric, why in one["absent"].items()]
    return [*remarks, f"Computed by {', '.join(backends)}."]
