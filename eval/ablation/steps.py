"""Steps: one process each, named by a hash of everything its result depends on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from alm.common.fingerprint import fingerprint

DONE = "finished.json"
FAILED = "failed.json"
LOG = "log.txt"
LOCK = "lock"
CONFIG = "config.yaml"
HERE = "{here}"
ROOT = "{root}"
_REFERENCE = re.compile(r"\{step ([0-9a-f]+)\}")


@dataclass(frozen=True, eq=False)
class Step:
    """A process to run once.

    Paths in `words` and `config` hold placeholders: `{here}` for the step's folder, `{root}` for the folder of all
    steps, and another step's `ref` for its folder. So the hash does not depend on where the folders are.

    Attributes:
        name: Kind of the step; begins the folder's name.
        label: Description for messages, for example the arm's name.
        words: Arguments of `python -m`.
        output: The file or folder, inside its own folder, without which the step is not done.
        config: Values for a `config.yaml` in its folder; None writes none.
        needs: Steps that come first.
        reads: Files of the user whose content counts.
    """

    name: str
    label: str
    words: tuple[str, ...]
    output: str
    config: dict[str, Any] | None = None
    needs: tuple[Step, ...] = ()
    reads: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits: a hash of words, config, the steps before, the content of files, and the code."""
        decides: dict[str, Any] = {"name": self.name, "words": self.words, "config": self.config}
        decides |= {
            "needs": sorted(step.key for step in self.needs),
            "reads": [_content(r) for r in self.reads],
        }
        return fingerprint(decides, [])[:16]

    @property
    def ref(self) -> str:
        """Stands for the step's folder in later steps."""
        return f"{{step {self.key}}}"

    @property
    def folder(self) -> str:
        """Name of its folder among the steps."""
        return f"{self.name}-{self.key}"

    def chain(self) -> list[Step]:
        """The step and all before it, each once, earlier ones first."""
        found: dict[str, Step] = {}
        for before in self.needs:
            found |= {step.key: step for step in before.chain()}
        return [*found.values(), self]


def all_steps(last: Iterable[Step]) -> list[Step]:
    """Some steps and all before them, each once, earlier ones first."""
    found: dict[str, Step] = {}
    for one in last:
        for step in one.chain():
            found.setdefault(step.key, step)
    return list(found.values())


def placed(value: Any, work: Path, step: Step) -> Any:
    """Values with real paths for `{here}`, `{root}` and other steps' folders."""
    folders = {before.key: str(work / "steps" / before.folder) for before in step.chain()}
    here = folders[step.key]

    def place(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: place(item) for key, item in one.items()}
        if isinstance(one, list | tuple):
            return [place(item) for item in one]
        if isinstance(one, str):
            one = one.replace(HERE, here).replace(ROOT, str(work))
            return _REFERENCE.sub(lambda match: folders[match[1]], one)
        return one

    return place(value)


@cache
def _content(source: str) -> str:
    """Hash of a file's or an artifact folder's content; a hub id counts by its name."""
    return fingerprint({}, [source])
