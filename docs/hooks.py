"""Hooks of mkdocs: generated pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from mkdocs.structure.files import File, Files  # noqa: E402
from reference_pages import encoder_table, pages  # noqa: E402


def on_files(files: Files, config: Any) -> None:
    """Add the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated table in the place that a page keeps for it."""
    return (
        markdown.replace("<!-- table of encoders -->", encoder_table())
        if "<!-- table of" in markdown
        else markdown
    )
