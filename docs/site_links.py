"""Check a built site as a browser reads it from `file://`: every link and anchor leads somewhere, nothing is fetched.

    python docs/site_links.py site

Run by `make docs`. mkdocs checks the links of Markdown pages; this reads what it wrote, generated pages included.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class _Page(HTMLParser):
    """The links of a page, each with its tag, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links and anchors."""
        for key, value in attrs:
            if value is not None and key in ("href", "src"):
                self.links.append((tag, value))
            elif value is not None and (key == "id" or (tag, key) == ("a", "name")):
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """What is wrong with links, one line each.

    Args:
        site: The folder that mkdocs wrote.
    """
    site = site.resolve()
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for tag, link in page.links:
            if path.name != "404.html" and (
                problem := _problem(pages, path, tag, link)
            ):  # a web server's page
                found.append(f"{path.relative_to(site)}: {link}: {problem}")
    return found


def _problem(pages: dict[Path, _Page], path: Path, tag: str, link: str) -> str | None:
    if re.match(r"(https?:)?//", link):
        return None if tag == "a" else "is loaded from the network"
    if re.match(r"(mailto|data|javascript):", link):
        return None
    name, anchor = urldefrag(link)
    target = (path.parent / unquote(name)).resolve() if name else path
    if not target.is_file():  # a folder's index.html is opened by a web server alone
        return "leads to no file"
    if anchor and target in pages and unquote(anchor) not in pages[target].anchors:
        return "leads to no anchor"
    return None


if __name__ == "__main__":
    problems = dead_links(Path(sys.argv[1]))
    sys.exit("\n".join(problems) if problems else 0)
