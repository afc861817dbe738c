"""The repository keeps its order: folders, words, and the files that come with a package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("alm", "encoders", "projectors", "eval", "train")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# One file per component: they grow with the number of components.
COMPONENT_FOLDERS = {"alm/data/corpora", "encoders/zoo", "eval/benchmarks", "alm/commands"}
# Riddles that were rewritten in plain English; each has one reading only, so it needs no context.
WORDS = (
    "step_print", "keep_of", "put aside", "gone through", "never heard", "cannot be had", "asked to leave",
    "the user's to fix", "looks at none", "looks in a row", "mend it", "without a word", "passed over",
    "taken for what", "hands on", "can be asked", "knows no", "what arrived", "deviate alike", "a stranger's",
    "teach nothing", "learn beside", "learnt by heart",
)  # fmt: skip


def test_no_room_is_crowded():
    counts: dict[str, int] = {}
    for file in MODULES:
        if file.stem != "__init__":
            folder = file.parent.relative_to(ROOT).as_posix()
            counts[folder] = counts.get(folder, 0) + 1
    assert {folder: n for folder, n in counts.items() if n > 16 and folder not in COMPONENT_FOLDERS} == {}


def test_every_room_says_what_lives_there():
    for folder in {file.parent for file in MODULES}:
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith(('"""', 'r"""')), folder


@pytest.mark.parametrize("word", WORDS)
def test_riddles_do_not_come_back(word):
    pattern = re.compile(rf"\b{re.escape(word)}\b".replace(r"\ ", r"\s+"), re.IGNORECASE)
    files = [file for file in MODULES if pattern.search(file.read_text(encoding="utf-8"))]
    assert files == [], "write it in plain English"


def test_every_package_has_types_and_ships_its_marker():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in project["tool"]["setuptools"]["package-data"][package]


def test_hooks_run_what_is_installed_and_download_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    assert {hook["language"] for repo in hooks["repos"] for hook in repo["hooks"]} == {"system"}


def test_citation_has_what_the_format_demands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)


def test_the_guide_names_files_that_are_there():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1:-1]
        for line in guide.partition("## Add a component")[2].splitlines()
        if line.startswith("| ") and "assigns" not in line
    ]
    assert len(rows) == 14
    for row in rows:
        attribute, folder, example = (re.findall(r"`([^`]+)`", cell)[0] for cell in row[1:4])
        found = ROOT / folder / example
        file = found / "__init__.py" if found.is_dir() else found
        assert re.search(rf"^{attribute}\b", file.read_text(encoding="utf-8"), re.MULTILINE), row
    for name in re.findall(r"pytest (tests/\S+\.py)", guide):
        assert (ROOT / name).is_file(), name
