"""A comparison of two models as text, Markdown and one HTML page."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from eval.reports.charts import interval_chart, legend
from eval.reports.disagreements import as_examples
from eval.reports.html_report import example_list
from eval.reports.page import page
from eval.reports.score_table import format_interval

_HEAD = (
    "set",
    "score",
    "n",
    "first",
    "second",
    "difference",
    "better",
    "p",
    "p (Holm)",
    "McNemar",
    "only first / only second",
)
_CONTROL_HEAD = ("set", "score", "heard", "first", "gap to first", "second", "gap to second")


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as plain text."""
    names = comparison["names"]
    lines = [f"first: {names[0]}", f"second: {names[1]}", ""]
    lines += _columns([list(_HEAD), *(_cells(row) for row in comparison["rows"])])
    controls = _control_cells(comparison)
    if controls:
        lines += ["", *_columns([list(_CONTROL_HEAD), *controls]), ""]
    return "\n".join([*lines, *_remarks(comparison)])


def _columns(table: list[list[str]]) -> list[str]:
    """Lines of a table in plain text."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def write_comparison(out_dir: str | Path, comparison: Mapping[str, Any]) -> Path:
    """Write `comparison.json`, `comparison.md` and `comparison.html`; returns the page's path."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomic(folder / "comparison.json", text)
    rows = _markdown([list(_HEAD), *map(_cells, comparison["rows"])])
    if controls := _control_cells(comparison):
        rows += ["", "## Does it listen?", "", *_markdown([list(_CONTROL_HEAD), *controls])]
    names = comparison["names"]
    head = ["# Comparison", "", f"first: {names[0]}  ", f"second: {names[1]}", ""]
    remarks = [f"- {remark}" for remark in _remarks(comparison)]
    write_text_atomic(folder / "comparison.md", "\n".join([*head, *rows, "", *remarks, ""]))
    path = folder / "comparison.html"
    write_text_atomic(path, page("Comparison", _body(comparison)))
    return path


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    return [f"| {' | '.join(cells)} |" for cells in (table[0], ["---"] * len(table[0]), *table[1:])]


def _body(comparison: Mapping[str, Any]) -> str:
    names = comparison["names"]
    parts = [f'<p class="quiet">first: {escape(names[0])}<br>second: {escape(names[1])}</p>']
    for one in comparison["sets"]:
        rows = [row for row in comparison["rows"] if row["set"] == one["name"]]
        chart = interval_chart(
            {
                row["score"].removeprefix("qa/"): [_triple(row["first"]), _triple(row["second"])]
                for row in rows
                if row["score"].startswith(("qa/", "ranking/"))
            },
            title=f"Accuracy on {one['name']} with 95 % intervals; the numbers are in the table",
        )
        figure = f"<figure>{chart}{legend(['first', 'second'])}</figure>" if chart else ""
        controls = [cells[1:] for cells in _control_cells({"sets": [one]})]
        listens = f"<h3>Does it listen?</h3>{_table(_CONTROL_HEAD[1:], controls)}" if controls else ""
        heard = example_list(as_examples(one["disagreements"], one["run"]))
        parted = f"<h3>Where they part</h3>{heard}" if heard else ""
        limited = ", only the first ones of the benchmark (--limit)" if one["limited"] else ""
        parts.append(
            f'<section><h2>{escape(one["name"])}</h2><p class="quiet">{one["n_records"]} records, '
            f"{one['n_clips']} clips{limited}</p>{_table(_HEAD[1:], [_cells(row)[1:] for row in rows])}"
            f"{figure}{listens}{parted}</section>"
        )
    parts.append("".join(f'<p class="quiet">{escape(remark)}</p>' for remark in _remarks(comparison)))
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(cells[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in rows
    )  # fmt: skip
    return (
        f'<div class="scroll" role="region" tabindex="0"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _control_cells(comparison: Mapping[str, Any]) -> list[list[str]]:
    """What each model scores without the right audio, and how far its own score is from that."""
    return [
        [one["name"], row["score"], row["control"].replace("_", " "),
         *(format_interval(row[side], row["score"], signed=side.endswith("gap"))
           for side in ("first", "first_gap", "second", "second_gap"))]
        for one in comparison["sets"] for row in one["controls"]
    ]  # fmt: skip


def _triple(score: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return score["value"], score["low"], score["high"]


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
        _p(row["p_permutation"]),
        _p(row["p_holm"]),
        _p(row["p_mcnemar"]),
        "–" if only is None else f"{only[0]} / {only[1]}",
    ]


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


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
