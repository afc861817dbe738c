"""Rows of tables and data sets as records in the manifest's form: columns, conversations and audio."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from alm.common.errors import AudioError, ManifestError, did_you_mean, shown
from alm.common.storage.remote import is_remote
from alm.data.embedded import inline_audio
from alm.data.readers.base import TARGETS, DataSource, Row
from alm.data.readers.conversations import TURN_KEYS, check_no_more, is_conversation, read_conversation

USUAL_NAMES = {
    "audio": (
        *("audios", "audio_path", "audio_filepath", "audio_file", "file_name", "filename", "filepath"),
        *("fname", "slice_file_name", "file", "path", "wav", "sound"),
    ),
    "question": ("query", "instruction"),
    "answer": (
        *("response", "output", "text", "transcription", "transcript", "sentence", "label", "category"),
    ),
    "captions": ("caption",),
    "choices": ("options",),
}  # fmt: skip
"""Names that columns have in common data sets. A column with the target's own name comes first."""


def to_row(
    values: Mapping[str, Any],
    where: str,
    folder: Path,
    source: DataSource,
    embedded: Mapping[str, Any] | None = None,
) -> Row:
    """A row in the manifest's form.

    Args:
        values: Its cells by column name.
        where: `file:line`, for errors.
        folder: The folder that audio paths are relative to.
        source: The settings.
        embedded: Descriptions of recordings that lie inside other files, by column name.

    Raises:
        ManifestError: A column is missing, several could be meant, or a value cannot be used.
    """
    check_no_more(values, where)
    inside_of = embedded or {}
    values = {**values, **{column: _names(described) for column, described in inside_of.items()}}
    columns = find_columns(values, source.columns, where)
    cells = {target: values.get(column) for target, column in columns.items()}
    used = {*TARGETS, *columns.values(), *inside_of}
    record = {key: value for key, value in values.items() if key not in used and _is_plain(value)}
    for key in ("id", "kind", "clip"):
        if cells.get(key) not in (None, ""):
            record[key] = text_of(cells[key], key, where)
    turns = {"messages": columns["messages"]} if "messages" in columns else {}
    if is_conversation(values, {**source.columns, **turns}):
        messages, audio = read_conversation(values, columns, source.columns, where)
        record = {key: value for key, value in record.items() if key not in TURN_KEYS} | {
            "messages": messages
        }
    else:
        value = cells.get("audio")
        audio = value if isinstance(value, list) else [] if value in (None, "") else [value]
        record |= _text(cells, source.prompt, where) or _labels(cells, columns, where)
        if not audio:
            column = columns.get("audio")
            missing = (
                f"{column!r} is empty" if column else "no column holds audio; name it (columns: {audio: …})"
            )
            raise ManifestError(f"{where}: {missing}")
    described = inside_of.get(columns.get("audio", ""))
    if described:
        items, inside = audio, dict(enumerate(described if isinstance(described, list) else [described]))
    else:
        found = [audio_item(item, f"{where}: audio[{place}]") for place, item in enumerate(audio)]
        items = [item for item, _ in found]
        inside = {place: item for place, (_, item) in enumerate(found) if item}
    record["audio"] = _with_times(items, cells, where)
    return Row(where, record, folder, {str(place): item for place, item in inside.items()})


def _names(described: Any) -> Any:
    return [item["name"] for item in described] if isinstance(described, list) else described["name"]


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def find_columns(values: Mapping[str, Any], given: Mapping[str, str], where: str) -> dict[str, str]:
    """Map record fields to columns: as given, or else by the usual names.

    Raises:
        ManifestError: A given column is missing, or several could be meant.
    """
    columns: dict[str, str] = {}
    for target, column in given.items():
        if column not in values:
            hint = did_you_mean(column, values, f"there are {', '.join(map(str, values)) or 'none'}")
            raise ManifestError(f"{where}: no column {column!r} for {target!r} (columns); {hint}"[:600])
        columns[target] = column
    for target in TARGETS:
        if target in columns or (target == "answer" and "captions" in columns):
            continue
        if target in values and target not in columns.values():
            columns[target] = target
            continue
        usual = [
            name for name in USUAL_NAMES.get(target, ()) if name in values and name not in columns.values()
        ]
        if len(usual) > 1:
            raise ManifestError(
                f"{where}: the columns {', '.join(map(repr, usual))} could each be the {target}; say which: "
                f"columns: {{{target}: {usual[0]}}}"
            )
        if usual:
            columns[target] = usual[0]
    return columns


def _text(cells: Mapping[str, Any], prompt: str | None, where: str) -> dict[str, Any]:
    """The question, answer and captions of a row; nothing for audio alone, or with a label that answers no question."""
    captions = cells.get("captions")
    if captions not in (None, "", []):
        texts = captions if isinstance(captions, list) else [captions]
        asked = cells.get("prompt") or prompt
        found: dict[str, Any] = {"captions": [text_of(text, "captions", where) for text in texts]}
        return {**found, "prompt": text_of(asked, "prompt", where)} if asked else found
    question, answer = cells.get("question"), cells.get("answer")
    if question in (None, ""):
        question = cells.get("prompt") or prompt
    if question in (None, ""):
        return {}
    found = {"question": text_of(question, "question", where)}
    found["answer"] = None if answer in (None, "") else text_of(answer, "answer", where)
    choices = cells.get("choices")
    if choices not in (None, "", []):
        if not isinstance(choices, list):
            raise ManifestError(f"{where}: 'choices' is {shown(choices, 80)}; expected a list")
        found["choices"] = [text_of(choice, "choices", where) for choice in choices]
    return found


def _labels(cells: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """Answer and choices of a row without a question, under their columns' names.

    Raises:
        ManifestError: A column has the name of a record's own field, which belongs to a question.
    """
    kept = {}
    for target in ("answer", "choices"):
        value = cells.get(target)
        if value in (None, "", []):
            continue
        if columns[target] in TARGETS:
            raise ManifestError(
                f"{where}: has {target!r} ({shown(value, 40)}) and no question; name its column (columns: "
                "{question: …}), give one question for all rows (prompt: …), or rename the column"
            )
        kept[columns[target]] = value
    return kept


def text_of(value: Any, key: str, where: str) -> str:
    """Text of a cell; a number is written as text.

    Raises:
        ManifestError: It is neither text nor a number.
    """
    if isinstance(value, str):
        return value.strip()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ManifestError(f"{where}: {key!r} is {shown(value, 80)}; expected text")
    return str(value)


def audio_item(item: Any, where: str) -> tuple[Any, dict[str, Any] | None]:
    """An audio value of another format, as an item of a manifest and the description of embedded audio.

    Args:
        item: A path, a `data:` or `file:` URL, bytes, or a mapping with `path`, `url`, `bytes` or `data` (base64).
        where: Its place, for errors.

    Returns:
        A path, or a path with times; and the description of an embedded recording, or None.

    Raises:
        ManifestError: It is something else, or a URL whose file must be downloaded first.
    """
    if isinstance(item, bytes | bytearray):
        return _inline(base64.b64encode(item).decode("ascii"), "bytes")
    if isinstance(item, str) and item.startswith("data:"):
        _check_base64(item, where)
        return _inline(item, "data")
    if isinstance(item, str) and is_remote(item):
        return item, None
    if isinstance(item, str) and _URL.match(item):
        url = urlparse(item)
        if url.scheme == "file":
            return unquote(url.path), None
        raise ManifestError(
            f"{where}: {shown(item, 120)} is a URL; download the recording, and name its file"
        )
    if isinstance(item, str) and item.strip():
        return item, None
    if isinstance(item, dict):
        data = item.get("bytes") or item.get("data")
        if isinstance(data, bytes | bytearray):
            return _inline(base64.b64encode(data).decode("ascii"), str(item.get("path") or "bytes"))
        if isinstance(data, str):
            _check_base64(data, where)
            suffix = item.get("format")
            return _inline(data, f"data.{suffix}" if isinstance(suffix, str) else "data")
        if "start_s" in item or "end_s" in item:
            return item, None  # checked with the record
        inner = item.get("path") or item.get("url") or item.get("audio")
        if isinstance(inner, str | dict):
            return audio_item(inner, where)
    raise ManifestError(f"{where}: got {shown(item, 80)}; expected a path, or a mapping with path or bytes")


def _inline(data: str, name: str) -> tuple[str, dict[str, Any]]:
    return name, {"kind": "inline", "path": "", "name": name, "data": data}


def _check_base64(text: str, where: str) -> None:
    try:
        inline_audio(text, where)
    except AudioError as error:
        raise ManifestError(str(error)) from error


def _with_times(items: list[Any], cells: Mapping[str, Any], where: str) -> list[Any]:
    """Audio items with the row's times."""
    times = {key: _seconds(cells[key], key, where) for key in ("start_s", "end_s") if _given(cells.get(key))}
    if not times:
        return items
    if len(items) != 1 or isinstance(items[0], dict):
        raise ManifestError(f"{where}: has {' and '.join(times)} for {len(items)} recordings; expected one")
    return [{"path": items[0], **times}]


def _given(value: Any) -> bool:
    return value is not None and value != ""


def _seconds(value: Any, key: str, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ManifestError(f"{where}: {key!r} is {shown(value, 40)}; expected seconds")
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value of a row can stand in a record as it is."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)
