"""What the readers of benchmarks share: finding files of a layout, tables, and records out of rows."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alm.data.records import AUDIO_MARKER, AudioRef, Record, format_choices
from eval.errors import EvaluationError

CAPTION_PROMPT = "Describe the sounds in this recording."
CHOICE_PROMPT = "{question}\nAnswer with the letter of the right option."
SHORT_PROMPT = "{question}\nAnswer with one word."

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")


def find(root: Path, *candidates: str) -> Path:
    """The first of several places in which releases of a data set keep a file or folder.

    Raises:
        EvaluationError: None of them is there; all are named.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    raise EvaluationError(
        f"{root}: none of {', '.join(candidates)} is there; point --data at the data set's folder"
    )


def audio_at(folders: Sequence[Path], *stems: str) -> Path:
    """A recording by one of its possible names, with any suffix; the first name where there is none."""
    for folder in folders:
        for stem in stems:
            for name in (stem, *(stem + suffix for suffix in AUDIO_SUFFIXES)):
                if (folder / name).is_file():
                    return folder / name
    return folders[0] / stems[0]


def read_csv(path: Path, columns: Sequence[str], **options: Any) -> list[tuple[str, dict[str, str]]]:
    """Rows of a table with a header, as (`file:line`, row).

    Raises:
        EvaluationError: The file cannot be read, or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, **options)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise EvaluationError(
                    f"{path}: no column {missing[0]!r}; expected {', '.join(columns)}, got {reader.fieldnames}"
                )
            rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: cannot be read as a table ({error})") from error
    if not rows:
        raise EvaluationError(f"{path}: the table has no rows")
    return rows


def read_items(path: Path, fields: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Objects of a JSON list, JSON lines or parquet file, as (`file:number`, object).

    Raises:
        EvaluationError: The file cannot be read, or an object lacks a field.
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            items = pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").split("\n")
            items = [json.loads(line) for line in lines if line.strip()]
        else:
            items = json.loads(path.read_text(encoding="utf-8"))
            items = (
                items["data"] if isinstance(items, dict) and isinstance(items.get("data"), list) else items
            )
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error})") from error
    if not isinstance(items, list) or not items:
        raise EvaluationError(f"{path}: expected a list of objects, at least one")
    for number, item in enumerate(items, start=1):
        missing = [name for name in fields if not isinstance(item, dict) or name not in item]
        if missing:
            raise EvaluationError(f"{path}:{number}: no field {missing[0]!r}; expected {', '.join(fields)}")
    return [(f"{path}:{number}", item) for number, item in enumerate(items, start=1)]


def caption_record(
    identifier: str, audio: Path, captions: Sequence[str], source: str, meta: Mapping[str, Any] | None = None
) -> Record:
    """A record that asks for a caption."""
    return _record(
        identifier, [audio], CAPTION_PROMPT, "caption", None, source, meta, captions=tuple(captions)
    )


def question_record(
    identifier: str,
    audio: Path | Sequence[Path],
    prompt: str,
    question: str,
    answer: str | None,
    source: str,
    *,
    choices: Sequence[str] = (),
    shown: bool = True,
    kind: str = "qa",
    answers: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Record:
    """A record that asks a question.

    Args:
        identifier: Unique within the benchmark.
        audio: Its recording, or several.
        prompt: The benchmark's prompt; `{question}` is replaced.
        question: What is asked, without choices.
        answer: The right answer; None where it is not published.
        source: `file:line`.
        choices: Options; the answer is one of them, up to white space at the ends.
        shown: Whether the prompt lists the choices.
        kind: Kind of question; scores are given for each.
        answers: Further answers that count as right.
        meta: What scores are broken down by, and whatever else the row says.

    Raises:
        EvaluationError: The answer is not one of the choices.
    """
    choices = [str(choice).strip() for choice in choices]
    if answer is not None:
        answer = str(answer).strip()
        if choices and answer not in choices:
            raise EvaluationError(f"{source}: the answer {answer!r} is not one of the choices {choices}")
    asked = format_choices(question.strip(), choices) if choices and shown else question.strip()
    paths = [audio] if isinstance(audio, Path) else list(audio)
    more = {**(meta or {}), **({"answers": list(answers)} if answers else {})}
    return _record(
        identifier,
        paths,
        prompt.replace("{question}", asked),
        kind,
        answer,
        source,
        more,
        choices=tuple(choices),
    )


def _record(
    identifier: str,
    paths: Sequence[Path],
    text: str,
    kind: str,
    answer: str | None,
    source: str,
    meta: Mapping[str, Any] | None,
    choices: tuple[str, ...] = (),
    captions: tuple[str, ...] = (),
) -> Record:
    messages = [{"role": "user", "content": AUDIO_MARKER * len(paths) + text}]
    said = captions[0] if captions else answer
    if said is not None:
        messages.append({"role": "assistant", "content": said})
    return Record(
        id=identifier,
        audio=tuple(AudioRef(path) for path in paths),
        messages=tuple(messages),
        kind=kind,
        question=text,
        answer=said,
        choices=choices,
        captions=captions,
        clip="+".join(path.name for path in paths),
        meta=dict(meta or {}),
        source=source,
    )


def grouped(rows: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Values by key, both in the order in which they first come."""
    found: dict[Any, list[Any]] = {}
    for key, value in rows:
        found.setdefault(key, []).append(value)
    return found
