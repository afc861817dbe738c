"""An ablation's report as text: Markdown, HTML and CSV around the same sections."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from eval.ablation.results import Results

Section = tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[str]]
"""Heading, head of its table, rows, and remarks below."""
Pictures = Mapping[str, tuple[str, str]]
"""File name -> (title, SVG)."""


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def markdown(sections: Sequence[Section], drawn: Pictures) -> str:
    """The sections as Markdown; pictures are files in `figures/`."""
    lines = ["# Ablation", ""]
    for heading, head, rows, notes in sections:
        lines += [f"## {heading}", ""]
        if head:
            table = [head, ["---"] * len(head), *rows]
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table] + [""]
        lines += [*(f"- {note}" for note in notes), ""]
    lines += [f"![{title}](figures/{name}.svg)\n" for name, (title, _) in drawn.items()]
    return "\n".join(lines).rstrip() + "\n"


def html(sections: Sequence[Section], drawn: Pictures, results: Results) -> str:
    """The sections as the body of a page that holds its pictures, and every arm's config and hashes."""
    parts = []
    for heading, head, rows, notes in sections:
        parts.append(f"<section><h2>{escape(heading)}</h2>")
        if head:
            top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
            cells = [
                (escape(row[0]), "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])) for row in rows
            ]
            body = "".join(f'<tr><th scope="row">{first}</th>{others}</tr>' for first, others in cells)
            parts.append(
                f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
            )
        quiet = ' class="quiet"' if head else ""
        parts += [f"<p{quiet}>{escape(note)}</p>" for note in notes]
        parts.append("</section>")
        if heading.startswith("What"):
            parts += [_figure(title, svg) for title, svg in drawn.values()]
    parts.append("<section><h2>Configs</h2>")
    for arm in results.arms:
        hashes = ", ".join(f"seed {run.seed}: {run.key}" for run in arm.runs)
        text = escape(json.dumps(arm.config, indent=1))
        parts.append(
            f"<details><summary>{escape(arm.name)} <small>{hashes}</small></summary>"
            f'<pre class="scroll">{text}</pre></details>'
        )
    return "".join([*parts, "</section>"])


def _figure(title: str, svg: str) -> str:
    # As a picture, not in line: several drawings on one page would share the names of their parts.
    address = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    style = "height:auto;background:#fff"
    picture = f'<img style="{style}" alt="{escape(title)}" src="{address}">'
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}</figure>"
