"""A comparison of two models as text, Markdown and one HTML page."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from alm.files import write_text_atomic
from eval.charts import interval_chart, legend
from eval.page import page
from eval.score_table import format_interval

_HEAD = (
    "set",
    "score",
    "n",
    "first",
    "second",
    "difference",
    "p",
    "p (Holm)",
    "McNemar",
    "only first / only second",
)


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison as plain text."""
    names = comparison["names"]
    lines = [f"first: {names[0]}", f"second: {names[1]}", ""]
    table = [list(_HEAD), *(_cells(row) for row in comparison["rows"])]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEAD))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, *_remarks(comparison)])


def write_comparison(out_dir: str | Path, comparison: Mapping[str, Any]) -> Path:
    """Write `comparison.json`, `comparison.md` and `comparison.html`; returns the page's path."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text_atomic(folder / "comparison.json", text)
    rows = [
        f"| {' | '.join(cells)} |"
        for cells in (_HEAD, ["---"] * len(_HEAD), *map(_cells, comparison["rows"]))
    ]
    names = comparison["names"]
    head = ["# Comparison", "", f"first: {names[0]}  ", f"second: {names[1]}", ""]
    remarks = [f"- {remark}" for remark in _remarks(comparison)]
    write_text_atomic(folder / "comparison.md", "\n".join([*head, *rows, "", *remarks, ""]))
    path = folder / "comparison.html"
    write_text_atomic(path, page("Comparison", _body(comparison)))
    return path


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
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _HEAD[1:])
        body = "".join(
            f'<tr><th scope="row">{escape(cells[1])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells[2:])
            + "</tr>"
            for cells in map(_cells, rows)
        )  # fmt: skip
        figure = f"<figure>{chart}{legend(['first', 'second'])}</figure>" if chart else ""
        parts.append(
            f'<section><h2>{escape(one["name"])}</h2><p class="quiet">{one["n_records"]} records, '
            f'{one["n_clips"]} clips</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>{figure}</section>"
        )
    parts.append("".join(f'<p class="quiet">{escape(remark)}</p>' for remark in _remarks(comparison)))
    return "".join(parts)


def _triple(score: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return score["value"], score["low"], score["high"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    key = row["score"]
    only = row.get("only")
    return [
        row["set"],
        key,
        str(row["first"]["n"]),
        format_interval(row["first"], key),
        format_interval(row["second"], key),
        format_interval(row["difference"], key, signed=True),
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
    return [
        "Difference: first minus second, paired, 95 % interval over clips. p: paired permutation test that swaps whole "
        f"clips; Holm corrects for all {n_tests} scores. McNemar takes questions for independent.",
        f"Computed by {', '.join(backends)}.",
    ]
