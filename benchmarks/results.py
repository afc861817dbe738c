"""Measure again what is cheap to measure, and write it beside its command, commit, machine and date.

    python -m benchmarks.results [--only packing ranking] [--work DIR]

Writes `docs/results-regenerated.md`; sections of figures that are not measured now stay as they are. Everything runs
offline on two CPU cores; `quickstart` takes ten minutes, the others one to five each. What costs more, or needs data,
is in `docs/results.md` with its date.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alm.common.errors import UserError
from alm.common.files import write_text_atomic
from alm.common.text import markdown_table
from benchmarks.measure import machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results-regenerated.md"
_HEAD = """# Results, regenerated

Written by `make results` (`python -m benchmarks.results`). Figures of other machines and dates: [Results](results.md).
Times depend on the machine and on what else it does; scores of a seed are equal on the same kind of machine.
"""


def _as_printed(printed: str, work: Path) -> str:
    """What a bench printed, without the lines that deepspeed logs there."""
    shown = re.sub(r"^\[20[^\n\]]*\] \[[A-Z]+\] [^\n]*\n", "", printed, flags=re.M)
    return "```text\n" + shown.strip("\n") + "\n```"


def _quickstart(printed: str, work: Path) -> str:
    """The table of the quickstart's scores."""
    scores = json.loads((work / "quickstart" / "scores.json").read_text(encoding="utf-8"))
    arms = {
        name.replace("_", " ").replace("none", "model (MLP)"): arm for name, arm in scores["arms"].items()
    }
    rows = [
        (label, *(_interval(arm["scores"][score], scale) for arm in arms.values()))
        for label, score, scale in (
            ("questions answered right, %", "qa/overall", 100),
            ("captions, CIDEr-D", "caption/cider_d", 1),
        )
    ]
    return "\n".join(markdown_table(("", *arms), rows))


def _interval(score: dict[str, float], scale: float) -> str:
    digits = 1 if scale > 1 else 2
    value, low, high = (f"{scale * score[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Figure:
    """A section of the page.

    Attributes:
        title: Its heading.
        command: What is run, as a reader would write it; `{work}` is the folder for its files.
        read: Its Markdown, from what the command printed and the folder.
    """

    title: str
    command: str
    read: Callable[[str, Path], str] = _as_printed


FIGURES = {
    "quickstart": Figure("The quickstart", "alm quickstart --out {work}/quickstart", _quickstart),
    "generation": Figure("Answering in batches", "python benchmarks/generation.py"),
    "lm_head": Figure("Loss at supervised positions", "python benchmarks/lm_head.py"),
    "feature_cache": Figure("Kept features of a frozen encoder", "python -m benchmarks.feature_cache"),
    "packing": Figure("Packing and grouping by length", "python benchmarks/packing.py --rounds 3"),
    "evaluation": Figure("Evaluation in batches", "python -m benchmarks.evaluation"),
    "ranking": Figure("Ranking of choices", "python -m benchmarks.ranking"),
    "parsing": Figure("Reading of answers", "python -m benchmarks.parsing"),
    "shards": Figure("Clips in shards", "python benchmarks/shards.py"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the commands and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="these alone")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "results", help="folder for files of the runs"
    )
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(argv)
    for name in options.only:
        # The page is written after each figure, so that a failure keeps the figures before it.
        section = measure(FIGURES[name], options.work.resolve())
        sections = {**_sections(options.out), FIGURES[name].title: section}
        ordered = [sections[one.title] for one in FIGURES.values() if one.title in sections]
        write_text_atomic(options.out, "\n".join([_HEAD, *ordered]))
        print(section)


def measure(figure: Figure, work: Path) -> str:
    """Run a figure's command; returns its section.

    Raises:
        UserError: The command failed; holds the last line that it wrote.
    """
    work.mkdir(parents=True, exist_ok=True)
    about = machine()
    words = [word.format(work=work) for word in figure.command.split()]
    words = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    # Exit code 1 is either a bench that missed a bound, whose figures count, or an uncaught exception.
    if done.returncode not in (0, 1) or (done.returncode and "Traceback (most recent" in done.stderr):
        last = "".join(done.stderr.strip().splitlines()[-1:])
        raise UserError(f"{figure.command}: exit code {done.returncode}: {last}")
    shown = figure.command.replace("{work}/", "")
    lines = [f"## {figure.title}", "", f"- `{shown}`, {time.monotonic() - started:.0f} s"]
    return "\n".join([*lines, *(f"- {line}" for line in about), "", figure.read(done.stdout, work), ""])


def _sections(page: Path) -> dict[str, str]:
    """The sections of the page as it is."""
    if not page.is_file():
        return {}
    parts = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.rstrip("\n") + "\n" for part in parts}


if __name__ == "__main__":
    main()
