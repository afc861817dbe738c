"""Reports as files: one self-contained HTML page, or Markdown, from the same sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from alm.common.text import markdown_cell, markdown_table, writable
from eval.reports.media import data_address, flac_bytes, spectrogram_png
from eval.reports.sections import Example, Section

# Seconds of a clip that are put into the page; a half-hour recording would make it too heavy to open.
MAX_SOUND_S = 60.0


def html_page(title: str, sections: Sequence[Section]) -> str:
    """A self-contained page for narrow and wide screens, with a light and a dark theme; all text is escaped.

    Args:
        title: Heading and title, as text.
        sections: What it shows; empty ones are skipped.
    """
    shown = [
        {**{name: getattr(section, name) for name in (*section.__dataclass_fields__, "empty", "filters")},
         "examples": [_example(one, number) for number, one in enumerate(section.examples, start=1)]}
        for section in sections
    ]  # fmt: skip
    script, digest = _script() if any(section.filters for section in sections) else ("", "")
    page: str = _template().render(title=title, sections=shown, script=script, script_sha256=digest)
    return page


@cache
def _script() -> tuple[Any, str]:
    """The code of the filter, and its hash: the only code that the policy of a page lets run."""
    from markupsafe import Markup

    text = files("eval.reports").joinpath("templates", "filter.js").read_text(encoding="utf-8")
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """The same as Markdown, without charts and clips."""
    lines = [f"# {markdown_cell(title)}", ""]
    for section in sections:
        if section.empty or (section.examples and not section.tables):
            continue
        if section.heading:
            lines += [f"{'#' * section.level} {markdown_cell(section.heading)}", ""]
        if section.lead:
            lines += [*(f"{markdown_cell(line)}  " for line in section.lead.splitlines()), ""]
        if section.findings:
            lines += [*(f"- {markdown_cell(one)}" for one in section.findings), ""]
        for table in section.tables:
            lines += [*markdown_table(table.head, [[str(cell) for cell in row] for row in table.rows]), ""]
            lines += [markdown_cell(table.note), ""] if table.note else []
        if section.notes:
            lines += [*(f"- {markdown_cell(note)}" for note in section.notes), ""]
        if section.facts:
            lines += [
                *(f"- {markdown_cell(f'{name}: {value}')}" for name, value in section.facts.items()),
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _example(example: Example, number: int) -> dict[str, Any]:
    """A clip as the template shows it: sound and picture as addresses."""
    seconds = len(example.waveform) / example.sample_rate
    shown = example.waveform[: int(MAX_SOUND_S * example.sample_rate)]
    cut = f" (the first {MAX_SOUND_S:.0f} s here)" if len(shown) < len(example.waveform) else ""
    return {
        "name": example.title or f"clip {number}",
        "kind": example.kind,
        "seconds": f"{seconds:.1f} s{cut}",
        "picture": data_address("image/png", spectrogram_png(shown, example.sample_rate)),
        "sound": data_address("audio/flac", flac_bytes(shown, example.sample_rate)),
        "question": example.question,
        "reference": example.reference,
        "answer": example.answer,
        "verdict": example.verdict,
        "captions": example.captions,
    }


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Text without control characters and lone surrogates, which no file can hold."""
        return writable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("eval.reports"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spaced"] = lambda text: text.replace("_", " ")
    return environment.get_template("page.html")
