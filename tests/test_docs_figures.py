"""Every measured figure in README and docs stands beside its date, its commit and its command."""

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
OTHERS = "published.md"
"""Figures of others, whose source stands beside them instead."""
MEASURED = re.compile(
    r"-?\d[\d.]*(?: ?[\w/%]+)? \[[+-]?\d[\d.]*, [+-]?\d[\d.]*\]"  # with an interval
    r"|(?:took|in about|takes) (?:about )?\d[\d.-]* (?:s|min|minutes)\b"
    r"|\b\d[\d.]* (?:s|ms)/(?:clip|sample)\b"
    r"|\b\d+(?:\.\d+)?(?:x| times) (?:faster|sooner|as fast|off)"
    r"|\b\d+(?:\.\d+)? ± \d"
    r"|\b\d+ of \d+ (?:answers|digits|questions|right)"
    r"|\b\d+(?:\.\d+)? (?:s|min) (?:wall|of CPU|of one core)"
)
DATE, COMMIT = re.compile(r"\b(20\d\d-\d\d-\d\d)\b"), re.compile(r"[Cc]ommits?\W+([0-9a-f]{7,40})\b")
COMMAND = re.compile(r"(?:`|^    |^\$? ?)(?:alm|make|python3?) [^\n`]+", re.M)


def sections(text):
    """The parts of a page, each with its heading."""
    return re.split(r"^(?=#+ )", re.sub(r"^```python.*?^```\n", "", text, flags=re.M | re.S), flags=re.M)


def lacking(section):
    """What a section with measured figures does not say; empty where all is said, or nothing was measured."""
    if not MEASURED.search(section):
        return []
    found = {
        "date": DATE.search(section),
        "commit": COMMIT.search(section),
        "command": COMMAND.search(section),
    }
    return [name for name, match in found.items() if match is None]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_figures_say_where_they_come_from(page):
    text = page.read_text("utf-8")
    if page.name == OTHERS:
        for section in sections(text)[2:]:
            assert "ource" in section or "authors" in section, section.splitlines()[0]
        return
    parts = (
        [text] if page.parent.name == "benchmarks" else sections(text)
    )  # a bench's page begins with its source
    assert {part.splitlines()[0]: missing for part in parts if (missing := lacking(part))} == {}
    for when in DATE.findall(text):
        assert date.fromisoformat(when) <= date.today(), when


def test_there_are_figures_to_check():
    checked = [s for page in PAGES for s in sections(page.read_text("utf-8")) if MEASURED.search(s)]
    assert len(checked) >= 8
    for figure in ("3.65 ms/sample [3.51, 3.94]", "It took 594 s.", "9 ms/clip"):
        assert lacking(f"## Speed\n\n{figure}\n") == ["date", "commit", "command"], figure
    bare = "## Speed\n\nOurs is 1.37 times as fast, 56 of 60 digits right, 62.5 [46.3, 77.6] %.\n"
    assert lacking(bare) == ["date", "commit", "command"]
    said = bare + "\n`python -m benchmarks.serving MODEL`, 2026-11-30, commit f5b7a32.\n"
    assert lacking(said) == [] and lacking("## Plain\n\nWindows of 10.24 s.\n") == []


def test_commits_that_figures_name_are_in_the_history():
    """Skipped outside of a whole clone."""
    git = ["git", "-C", str(ROOT)]
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if shallow.stdout.strip() != "false" or not (ROOT / ".git").exists():
        pytest.skip("no whole clone")
    named = {(page.name, at) for page in PAGES for at in COMMIT.findall(page.read_text("utf-8"))}
    assert len(named) >= 8
    history = subprocess.run([*git, "rev-list", "HEAD"], capture_output=True, text=True, check=True).stdout
    missing = {(page, at) for page, at in named if f"\n{at}" not in f"\n{history}"}
    assert missing == set(), "not in the history of HEAD: a branch's commit has another name after a rebase"
