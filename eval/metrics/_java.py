"""Running the official Java scorers: finding their jars, single runs, and a process that scores line by line."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from eval.errors import MetricError, MetricUnavailable

# Minutes that a scorer may take before it counts as hung.
TIMEOUT_S = 3600


def java() -> str:
    """The Java program.

    Raises:
        MetricUnavailable: There is none on the path.
    """
    found = shutil.which("java")
    if found is None:
        raise MetricUnavailable("needs Java, which is not on the path; install a Java runtime (11 or newer)")
    return found


def jar_folder(name: str, jar: str, given: str | None, variable: str) -> Path:
    """The folder of a scorer's jar: as given, from the environment, or of an installed `pycocoevalcap`.

    Args:
        name: The scorer's folder in pycocoevalcap.
        jar: Name of the jar.
        given: A folder, or None.
        variable: Environment variable that may name the folder.

    Raises:
        MetricUnavailable: There is no Java, or no such jar.
    """
    java()
    named, package = given or os.environ.get(variable), importlib.util.find_spec("pycocoevalcap")
    if named:
        folder = Path(named).absolute()
        if not folder.is_dir():
            raise MetricUnavailable(
                f"{named} is not a folder; set {variable} to the folder of the {name} jars"
            )
    elif package is not None and package.submodule_search_locations:
        folder = Path(next(iter(package.submodule_search_locations))).absolute() / name
    else:
        raise MetricUnavailable(
            f"needs the {name} jars; pip install pycocoevalcap, or set {variable} to the folder that holds them"
        )
    if not (folder / jar).is_file():
        raise MetricUnavailable(f"{folder}: {jar} is missing; set {variable} to the folder that holds it")
    return folder


def run_java(arguments: list[str], folder: Path) -> None:
    """Run a jar in its folder to its end.

    Raises:
        MetricError: It failed, or took longer than an hour.
    """
    try:
        done = subprocess.run(
            [java(), *arguments], capture_output=True, encoding="utf-8", cwd=folder, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise MetricError(
            f"java {' '.join(arguments)} took more than {TIMEOUT_S} s and was stopped"
        ) from error
    if done.returncode:
        raise MetricError(
            f"java {' '.join(arguments)} failed with exit code {done.returncode}: {_tail(done.stderr)}"
        )


class JavaDialogue:
    """A running jar that reads lines and answers each with lines."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        """Start it in its folder."""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [java(), *arguments],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    def __enter__(self) -> "JavaDialogue":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, line: str, n_answers: int = 1) -> list[str]:
        """Send a line and read some lines.

        Raises:
            MetricError: The program ended before it answered.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answers = [self._process.stdout.readline() for _ in range(n_answers)]
        except BrokenPipeError:
            answers = [""]
        if not all(answers):
            self._errors.seek(0)
            raise MetricError(f"the Java scorer ended early: {_tail(self._errors.read())}")
        return [answer.strip() for answer in answers]


def _tail(text: str) -> str:
    return " ".join(text.split())[-400:]
