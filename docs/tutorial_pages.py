"""Tutorial pages as data: their blocks, notebooks made from them, and their outputs from a run.

    python docs/tutorial_pages.py notebooks             # writes docs/tutorials/notebooks/*.ipynb
    python docs/tutorial_pages.py run PAGE.md FOLDER    # runs the page in FOLDER and writes its outputs into the page

A page is prose and fenced blocks. `bash` holds commands to run, `python title="FILE"` (or `yaml`) a file to write,
`python` without a title a script to run, and `text title="output"` what the block before it printed to stdout. A
command that ends in ` &` is a server: it runs until the page ends.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).resolve().parent / "tutorials"
NOTEBOOKS = TUTORIALS / "notebooks"
PAGES = ("recordings", "encoder", "real-parts", "benchmark", "ablation", "serving")
"""The tutorials in their order; a page may use what those before it made."""

_WAIT = """import time
import urllib.request

for _ in range(300):  # until the server answers
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/health").close()
        break
    except OSError:
        time.sleep(1)
"""
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```\n", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A part of a page.

    Attributes:
        kind: `prose`, or the language behind the fence.
        title: The file to write, `output`, or nothing.
        text: The content, without the fences.
    """

    kind: str
    title: str
    text: str

    @property
    def is_output(self) -> bool:
        """Whether this is what the block before it printed."""
        return self.kind == "text" and self.title == "output"

    @property
    def is_file(self) -> bool:
        """Whether this is a file to write."""
        return self.kind in ("python", "yaml") and bool(self.title)

    @property
    def is_run(self) -> bool:
        """Whether this is run: commands, or a script."""
        return self.kind == "bash" or (self.kind == "python" and not self.title)

    def commands(self) -> list[str]:
        """The commands of a `bash` block, one each."""
        return [re.sub(r"\s+", " ", line) for line in self.text.replace("\\\n", " ").splitlines()]

    def page(self) -> str:
        """The block as it stands in the page."""
        if self.kind == "prose":
            return self.text
        title = f' title="{self.title}"' if self.title else ""
        return f"```{self.kind}{title}\n{self.text}```\n"


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in order; their `page()` together is the page."""
    found, last = [], 0
    for match in _FENCE.finditer(text):
        if match.start() > last:
            found.append(Block("prose", "", text[last : match.start()]))
        found.append(Block(match[1], match[2] or "", match[3]))
        last = match.end()
    return [*found, Block("prose", "", text[last:])] if last < len(text) else found


def notebook(text: str) -> dict[str, Any]:
    """The Jupyter notebook (format 4.5) of a page."""
    cells: list[dict[str, Any]] = []
    for block in blocks(text):
        if block.is_output:
            output = {"output_type": "stream", "name": "stdout", "text": _lines(block.text)}
            cells[-1]["outputs"] = [output]
        elif block.is_file:
            if (folder := Path(block.title).parent) != Path():
                _add(cells, "code", f'from pathlib import Path\n\nPath("{folder}").mkdir(exist_ok=True)')
            _add(cells, "code", f"%%writefile {block.title}\n{block.text}")
        elif block.kind == "bash":
            server = re.search(r"--port (\d+) &$", block.text, re.M)
            _add(cells, "code", f"%%bash{' --bg' if server else ''}\n{block.text.replace(' &', '')}")
            if server:
                _add(cells, "code", _WAIT.format(port=server[1]))
        elif block.is_run:
            _add(cells, "code", block.text)
        elif block.page().strip():
            _add(cells, "markdown", _links(block.page()))
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebook_text(text: str) -> str:
    """The file of a page's notebook."""
    return json.dumps(notebook(text), indent=1, ensure_ascii=False) + "\n"


def _add(cells: list[dict[str, Any]], kind: str, text: str) -> None:
    if kind == "markdown" and cells and cells[-1]["cell_type"] == "markdown":
        cells[-1]["source"] += ["\n", "\n", *_lines(text)]
        return
    cell: dict[str, Any] = {
        "cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": _lines(text),
    }  # fmt: skip
    cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines(keepends=True)


def _links(text: str) -> str:
    """Prose of a page, for the folder of notebooks below it: links to tutorials lead to their notebooks."""
    text = re.sub(r"^As a notebook: .*\n", "", text, flags=re.M)
    text = re.sub(r"\]\(([\w-]+)\.md\)", r"](\1.ipynb)", text)
    return re.sub(r"\]\(\.\./", "](../../", text)


def with_outputs(page: Sequence[Block], printed: Sequence[str]) -> str:
    """The page with new outputs.

    Args:
        page: Its blocks; outputs among them are replaced.
        printed: What each block that is run printed, in order; where it is empty, the page shows no output.
    """
    rest = iter(printed)
    text = ""
    for block, after in zip(page, [*page[1:], None], strict=True):
        if block.is_output or (after is not None and after.is_output and not block.is_run):
            continue  # the old output, and the empty line before it
        text += block.page()
        if block.is_run and (output := next(rest).strip("\n")):
            text += "\n" + Block("text", "output", f"{output}\n").page()
    return text


def run(page: Path, folder: Path) -> None:
    """Run a page in a folder and write what it prints into it.

    Raises:
        subprocess.CalledProcessError: A command or script failed.
    """
    found = blocks(page.read_text(encoding="utf-8"))
    printed: list[str] = []
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for block in found:
            if block.is_file:
                (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.title).write_text(block.text, encoding="utf-8")
            elif block.kind == "bash":
                printed.append("".join(_command(line, folder, servers) for line in block.commands()))
            elif block.is_run:
                printed.append(_output([sys.executable, "-c", block.text], folder))
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    page.write_text(with_source(with_outputs(found, printed), output_source()), encoding="utf-8")


def output_source() -> str:
    """The sentence that says when, where and with which code outputs were made."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.measure import commit, processor

    return (
        f"Outputs of {datetime.date.today().isoformat()}, commit {commit()}, {processor()} with {os.cpu_count()} "
        "cores; scores and answers may differ on other machines."
    )


def with_source(text: str, sentence: str) -> str:
    """The page with this sentence before its last paragraph, in place of an older one."""
    text = re.sub(r"^Outputs of 20.*\n\n", "", text, flags=re.M)
    before, last = text.rstrip("\n").rsplit("\n\n", 1)
    return f"{before}\n\n{sentence}\n\n{last}\n"


def _command(line: str, folder: Path, servers: list[subprocess.Popen[bytes]]) -> str:
    words = [sys.executable, "-m", "alm", *shlex.split(line.removesuffix("&"))[1:]]
    print("$", line, flush=True)
    if not line.endswith("&"):
        return _output(words, folder)
    servers.append(subprocess.Popen(words, cwd=folder))
    wait_for_server(f"http://127.0.0.1:{words[words.index('--port') + 1]}/health", servers[-1])
    return ""


def wait_for_server(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: It ended instead.
    """
    while True:
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {server.returncode}") from None
            time.sleep(0.2)


def _output(words: Sequence[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> None:
    """Write all notebooks, or run a page."""
    if sys.argv[1:2] == ["notebooks"]:
        NOTEBOOKS.mkdir(exist_ok=True)
        for name in PAGES:
            text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
            (NOTEBOOKS / f"{name}.ipynb").write_text(notebook_text(text), encoding="utf-8")
    elif sys.argv[1:2] == ["run"] and len(sys.argv) == 4:
        run(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
