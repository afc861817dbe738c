"""Conversations in JSON or JSON Lines: ms-swift, ShareGPT, LLaMA-Factory, Qwen and OpenAI.

Turns are in `messages` or `conversations` (`role`/`content` or `from`/`value`), or in `instruction`, `input`, `output`
or `query`, `response`. Audio is in `audios`, `audio` or `sound`, with `<audio>` in the text where each stands, or
among the parts of a turn: `{"type": "audio", "audio": PATH}`, `{"type": "input_audio", "input_audio": {"data": …}}`.
Conversations without audio are text alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.common.errors import ManifestError, shown
from alm.common.json_text import json_items
from alm.common.storage.remote import to_path
from alm.data.readers.base import DataSource, Reader, Row, first_value, folder_of
from alm.data.readers.conversations import has_foreign_turns, is_conversation
from alm.data.readers.normalise import to_row


class ChatReader(Reader):
    """Conversations of other toolkits."""

    takes = ("columns", "audio")

    def recognises(self, path: Path) -> bool:
        """A JSON list or lines whose first object has turns."""
        value = first_value(path)
        if value is None or not is_conversation(value):
            return False
        return has_foreign_turns(value) or first_value(path, lines=True) is None

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        folder = folder_of(source, to_path(source.path))
        for where, value in json_items(source.path):
            if not isinstance(value, dict) or not (
                is_conversation(value) or is_conversation(value, source.columns)
            ):
                raise ManifestError(
                    f"{where}: got {shown(value, 80)}; expected an object with messages, conversations, or "
                    "instruction and output"
                )
            yield to_row(value, where, folder, source)


READER = ChatReader()
