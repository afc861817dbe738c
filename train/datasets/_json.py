"""Tables kept as JSON: a list of entries, at the top or under a key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from alm.common.errors import ManifestError


def read_entries(path: Path, under: str | None, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Entries as (`file:number`, key to text).

    Args:
        path: The file.
        under: The key that holds the list; None for a list at the top.
        keys: Keys that every entry must have, as strings.

    Raises:
        ManifestError: Not readable, or not of that form.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path}: not readable as JSON ({error}); get it again") from error
    entries = values.get(under) if under is not None and isinstance(values, dict) else values
    if not isinstance(entries, list):
        place = f"under '{under}'" if under else "at the top"
        raise ManifestError(f"{path}: no list of entries {place}; get the file again")
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
            raise ManifestError(
                f"{where} is {entry!r:.80}; expected an object with the texts {', '.join(keys)}"
            )
        yield where, entry
