"""Conversations as `transformers` writes them: messages whose content is text, or a list of text and audio items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alm.common.errors import UserError, shown
from alm.processing.feature_extraction import audio_of_base64

Message = dict[str, Any]

SOURCES = ("audio", "path", "url", "base64", "audio_url")
"""Keys of an audio item that hold its clip: a waveform, a file, an address, or the bytes of a file."""

_MISSING = object()


def is_batch(conversation: Any) -> bool:
    """Whether this is a list of conversations, as opposed to a single one.

    Raises:
        UserError: It is neither.
    """
    if isinstance(conversation, Sequence) and not isinstance(conversation, str | bytes):
        if conversation and isinstance(conversation[0], dict):
            return False
        if conversation and all(
            isinstance(row, Sequence) and not isinstance(row, str | bytes) for row in conversation
        ):
            return True
    raise UserError(
        f"conversation: got {shown(conversation, 80)}; expected a list of messages such as "
        "[{'role': 'user', 'content': 'What is this?'}], or a list of such lists"
    )


def flatten(
    conversation: Sequence[Message], audio_token: str, audio: Iterable[Any] | None = ()
) -> tuple[list[Message], list[Any]]:
    """Contents as strings with one marker per clip, and the clips in their order.

    Args:
        conversation: Messages with `role` and `content`; the content is a string with markers, or a list of items
            `{"type": "text", "text": ...}` and `{"type": "audio", "audio" | "path" | "url" | "base64": ...}`.
        audio_token: The marker.
        audio: Clips behind markers in strings, and behind audio items without a clip of their own; None: only the
            messages are wanted, and the clips are given later.

    Returns:
        The messages, and the clips.

    Raises:
        UserError: A message or item is malformed, or the numbers of markers and clips differ.
    """
    waiting = iter(audio or ())
    messages, clips = [], []
    for turn, message in enumerate(conversation):
        where = f"turn {turn}"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(
                f"{where}: got {shown(message, 80)}; expected a message with 'role' and 'content'"
            )
        pieces = []
        for item in _items(message.get("content"), where):
            if isinstance(item, str):
                clips += [next(waiting, _MISSING) for _ in range(item.count(audio_token))]
                pieces.append(item)
            else:
                source = _source(item, where)
                clips.append(next(waiting, _MISSING) if source is None else source)
                pieces.append(audio_token)
        # An absent key is what templates expect where an API writes null
        kept = {key: value for key, value in message.items() if value is not None}
        messages.append({**kept, "content": "".join(pieces)})
    n_clips = sum(clip is not _MISSING for clip in clips) + sum(1 for _ in waiting)
    if audio is not None and n_clips != len(clips):
        raise UserError(
            f"the conversation has {len(clips)} {audio_token} markers for {n_clips} clips; write one marker per clip"
        )
    return messages, clips


def _items(content: Any, where: str) -> list[Any]:
    """The content's pieces: strings, and audio items."""
    if content is None or isinstance(content, str):
        return [content or ""]
    if not isinstance(content, Sequence):
        raise UserError(f"{where}: content is {shown(content, 80)}; expected text or a list of items")
    pieces: list[Any] = []
    for item in content:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text" and isinstance(item.get("text"), str):
            pieces.append(item["text"])
        elif kind == "audio":
            pieces.append(item)
        else:
            raise UserError(
                f"{where}: content item is {shown(item, 80)}; expected {{'type': 'text', 'text': ...}} or "
                f"{{'type': 'audio', {' | '.join(map(repr, SOURCES))}: ...}}"
            )
    return pieces


def _source(item: dict[str, Any], where: str) -> Any:
    """The clip of an audio item; None if it has none of its own."""
    given = [key for key in SOURCES if item.get(key) is not None]
    if len(given) > 1:
        raise UserError(f"{where}: an audio item has {' and '.join(given)}; give one of them")
    if not given:
        return None
    return audio_of_base64(item[given[0]]) if given == ["base64"] else item[given[0]]
