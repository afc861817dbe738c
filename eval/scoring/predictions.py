"""The predictions file: one JSON line per answer, appended as answers come, read back for resuming and scoring."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alm.common.files import read_bytes, read_text, try_lock
from alm.common.json_text import parse_json
from alm.data.records import Record
from eval.errors import EvaluationError

CONTROLS = ("none", "no_audio", "other_clip")
"""The controls: the record's own audio (no control), no audio, or another clip's audio."""

PREDICTIONS = "predictions.jsonl"
"""Name of the predictions file of an evaluation."""

HEADLINE = "none"
"""The control that is the model as it is."""

_LOCK_S = 5.0  # processes that a killed run started hold its lock until they notice
_FIELDS = {"id": str, "key": str, "control": str, "prediction": str}

Prediction = dict[str, Any]


def prediction_key(**identity: Any) -> str:
    """Hash of everything an answer depends on; an answer with the same key is reused.

    Args:
        **identity: JSON values: the model, prompt, decoding, sample, control and audio of an answer.

    Returns:
        32 hexadecimal digits, the same in every process.
    """
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read a predictions file.

    A last line that was cut off while it was written is ignored; any other broken line is an error.

    Returns:
        Its lines in file order, each key once.

    Raises:
        EvaluationError: The file is missing, or a line is not a prediction; file and line are named.
    """
    path = Path(path)
    raw = read_bytes(path, "a predictions.jsonl", EvaluationError)
    return _parse(raw[: _whole_length(raw)], path)


_FOREIGN = ("model_prediction", "model_output", "answer_prediction", "prediction", "response", "output")


def read_foreign_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read predictions in a benchmark's own form: a JSON list or JSON lines of objects with an id and an answer.

    Args:
        path: The file; the answer is the first field of `model_prediction`, `model_output`, `answer_prediction`,
            `prediction`, `response` and `output` that an object has. An object without one has no answer.

    Returns:
        Lines as in a predictions file, of the control `none`.

    Raises:
        EvaluationError: The file cannot be read, an object has no id, or no object has an answer.
    """
    path = Path(path)
    text = read_text(path, "JSON predictions", EvaluationError)
    if text.lstrip().startswith("["):
        items = parse_json(text, str(path), EvaluationError, constants=True)
    else:
        items = [
            parse_json(line, f"{path}:{number}", EvaluationError, constants=True)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    lines = []
    has_answers = False
    for number, item in enumerate(items, start=1):
        identifier = item.get("id", item.get("uniq_id")) if isinstance(item, dict) else None
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            raise EvaluationError(f"{path}:{number}: no 'id'; expected an object with an id and an answer")
        has_answers = has_answers or any(name in item for name in _FOREIGN)
        field, said = next(
            ((name, item[name]) for name in _FOREIGN if item.get(name) is not None), ("", None)
        )
        if said is not None and not isinstance(said, str | int | float):
            raise EvaluationError(
                f"{path}:{number}: {field!r} is a {type(said).__name__}, expected the answer as text"
            )
        if said is not None:
            key = prediction_key(id=identifier, file=path.name)
            lines.append({"id": str(identifier), "key": key, "control": HEADLINE, "prediction": str(said)})
    if items and not has_answers:
        raise EvaluationError(
            f"{path}: no object has an answer; expected one of the fields {', '.join(_FOREIGN)}, the first object has "
            f"{', '.join(map(str, items[0]))}; rename the field that holds the answers"
        )
    return lines


def records_of(lines: Iterable[Prediction]) -> list[Record]:
    """The questions that the lines of a predictions file answer, in the order of their ids.

    Raises:
        EvaluationError: A line without references, or with references or choices that are not texts.
    """
    records: dict[str, Record] = {}
    for line in lines:
        identifier = line["id"]
        references, choices = _texts(line, "references"), _texts(line, "choices")
        if not references:
            raise EvaluationError(
                f"the prediction for {identifier!r} holds no references; score it with --benchmark and --data"
            )
        question, groups = line.get("question", ""), line.get("groups", {})
        kind = line.get("kind", "qa")
        if not isinstance(question, str) or not isinstance(kind, str) or not isinstance(groups, dict):
            raise EvaluationError(
                f"the prediction for {identifier!r}: expected 'question' and 'kind' as texts and 'groups' as an object"
            )
        caption = bool(line.get("caption")) or kind == "caption"
        answers = {} if caption or len(references) == 1 else {"answers": references}
        records[identifier] = Record(
            id=identifier,
            audio=(),
            messages=({"role": "user", "content": question},),
            kind=kind,
            question=question,
            answer=references[0],
            choices=tuple(choices),
            captions=tuple(references) if caption else (),
            clip=str(line.get("clip", identifier)),
            meta={**groups, **answers},
            source=identifier,
        )
    return [records[identifier] for identifier in sorted(records)]


def _texts(line: Prediction, field: str) -> list[str]:
    values = line.get(field)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise EvaluationError(
            f"the prediction for {line['id']!r}: {field!r} is {str(values)[:80]}, expected a list of texts"
        )
    return values


class PredictionsFile:
    """A predictions file that answers are appended to, safe to kill at any moment.

    Opening it cuts off a last line that was written in part; its question is then answered again.

    Attributes:
        path: Where it is.
        lines: Its lines: those read when it was opened, and those appended since.
    """

    def __init__(self, path: str | os.PathLike[str], alone: bool = False) -> None:
        """Open the file for appending; it and its folder are created if needed.

        Args:
            path: Where it is, or will be.
            alone: Take a lock, so that no other process with `alone`, on this or another host, writes into the file.

        Raises:
            EvaluationError: It cannot be written, a line in it is broken, or another process writes into it.
        """
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")
            if alone:
                self._keep()
            try:
                raw = self.path.read_bytes()
                whole = _whole_length(raw)
                self.lines = _parse(raw[:whole], self.path)
            except EvaluationError:
                self._file.close()
                raise
            if whole < len(raw):
                self._file.truncate(whole)
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: cannot write predictions ({error.strerror}); choose an out directory you may write to"
            ) from error

    def _keep(self) -> None:
        until = time.monotonic() + _LOCK_S
        while not try_lock(self._file.fileno()):
            if time.monotonic() > until:
                self._file.close()
                raise EvaluationError(
                    f"{self.path}: another process writes answers into it; wait until it ends, choose another out "
                    "directory, or start all of them together with torchrun"
                )
            time.sleep(0.2)

    def __enter__(self) -> "PredictionsFile":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # closing writes again what could not be written
            self._file.close()

    def append(self, lines: Sequence[Prediction]) -> None:
        """Write lines and flush them, so that a killed process loses nothing that was appended."""
        if not lines:
            return
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            # A lone surrogate cannot be stored as UTF-8; JSON can name it.
            self._file.write(text.encode("utf-8", errors="backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: cannot write answers ({error.strerror}); make room and run again, earlier answers "
                "are kept"
            ) from error
        self.lines.extend(lines)


def _whole_length(raw: bytes) -> int:
    """Bytes up to the end of the last complete line; a last line without a newline is incomplete."""
    return raw.rfind(b"\n") + 1


def _parse(raw: bytes, path: Path) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path}:{number}: is not UTF-8 text; remove it, then run again") from error
        value = parse_json(text, f"{path}:{number}", EvaluationError, constants=True)
        for field, kind in _FIELDS.items():
            if not isinstance(value, dict) or not isinstance(value.get(field), kind):
                raise EvaluationError(f"{path}:{number}: not a prediction, {field!r} should be a string")
        seconds = value.get("duration_s")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise EvaluationError(
                f"{path}:{number}: duration_s is {str(seconds)[:40]!r}, expected a number of seconds or null"
            )
        found.setdefault(value["key"], value)
    return list(found.values())
