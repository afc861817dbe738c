"""Conversations as other toolkits write them: keys of turns, names of roles, places of audio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from alm.common.errors import ManifestError, shown
from alm.data.records import AUDIO_MARKER

TURN_LISTS = ("messages", "conversations", "conversation")
TURN_KEYS = (*TURN_LISTS, "system", "history", "instruction", "input", "output", "query", "response")
"""Keys of a conversation that do not become metadata of its record."""
TEXT_COLUMNS = ("question", "answer", "captions", "choices")
"""What columns can hold besides turns."""
_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "bot": "assistant", "chatbot": "assistant",
}  # fmt: skip
_ASKED, _ANSWERED = ("query", "instruction"), ("response", "output")
_AUDIO_KEYS = ("audios", "audio", "sound")
_UNSEEN = ("images", "videos")
# LLaMA-Factory and ms-swift; Qwen-Audio with the path inside; Audio Flamingo; Qwen2-Audio.
_TAG = re.compile(r"<sound>|<audio>(?:[^<>\n]*</audio>)?|(?:<\|audio_bos\|>)?<\|AUDIO\|>(?:<\|audio_eos\|>)?")


def is_conversation(values: Mapping[str, Any], columns: Mapping[str, str] = {}) -> bool:  # noqa: B006
    """Whether a row is a conversation: a list of turns, or a query and a response as instruction data has them.

    Args:
        values: The row.
        columns: Columns that the user names. Those of a question or an answer are used in place of the usual ones.
    """
    if "messages" in columns or has_turns(values):
        return True
    if not columns.keys().isdisjoint(TEXT_COLUMNS):
        return False
    return any(key in values for key in _ASKED) and any(key in values for key in _ANSWERED)


def has_turns(values: Mapping[str, Any]) -> bool:
    """Whether a row has a list of turns under one of its usual names."""
    return any(isinstance(values.get(key), list) for key in TURN_LISTS)


def has_foreign_turns(values: Mapping[str, Any]) -> bool:
    """Whether a row is a conversation that is not in the manifest's own form."""
    turns = values.get("messages")
    if not isinstance(turns, list):
        return is_conversation(values)
    if "audios" in values or "audio" not in values:
        return True
    return any(
        not isinstance(turn, dict)
        or set(turn) != {"role", "content"}
        or not isinstance(turn["content"], str)
        or _TAG.search(turn["content"]) is not None
        for turn in turns
    )


def check_no_more(values: Mapping[str, Any], where: str) -> None:
    """Refuse rows with parts that would be ignored: images, videos, and pairs of a chosen and a rejected answer.

    Raises:
        ManifestError: The row has such a part.
    """
    for key in _UNSEEN:
        if isinstance(values.get(key), list) and values[key]:
            raise ManifestError(
                f"{where}: has {key}, which the model cannot see; remove the row, or its {key}"
            )
    if values.get("chosen") and values.get("rejected"):
        raise ManifestError(
            f"{where}: is a pair of answers (chosen, rejected) for preference training, which is not supported; write "
            "the chosen answer as output, and remove both"
        )


def is_manifest_row(values: Mapping[str, Any]) -> bool:
    """Whether a row has the keys of a manifest's record."""
    if has_foreign_turns(values):
        return False
    text = any(key in values for key in ("messages", "question", "captions"))
    return ("audio" in values and ("id" in values or text)) or ("id" in values and text)


def read_conversation(
    values: Mapping[str, Any], columns: Mapping[str, str], given: Mapping[str, str], where: str
) -> tuple[list[dict[str, str]], list[Any]]:
    """The messages of a row, and its recordings.

    The messages hold one `<|audio|>` per recording if the row says where each recording stands.

    Args:
        values: The row.
        columns: Columns of the turns (`messages`) and of the audio (`audio`), where they have other names.
        given: The part of `columns` that the user has set.
        where: `file:line`, for errors.

    Raises:
        ManifestError: A turn is not understood, or the user names columns that a conversation does not have.
    """
    if unused := [name for name in TEXT_COLUMNS if name in given]:
        raise ManifestError(
            f"{where}: is a conversation, whose turns hold its text; remove {', '.join(unused)} from columns"
        )
    key = columns.get("messages") or next(
        (name for name in TURN_LISTS if isinstance(values.get(name), list)), None
    )
    turns = values[key] if key else _instruction_turns(values, where)
    if not isinstance(turns, list) or not turns:
        raise ManifestError(f"{where}: {key!r} is {shown(turns, 80)}; expected a list of turns")
    audio = _audio_of(values, columns, given, where)
    inside: list[Any] = []
    messages = [
        _message(turn, f"{where}: {key or 'turn'}[{place}]", inside) for place, turn in enumerate(turns)
    ]
    system = values.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    if inside and audio:
        raise ManifestError(f"{where}: names audio both inside its turns and beside them; keep one")
    if audio:
        for message in messages:
            if message["role"] == "user":
                message["content"] = _TAG.sub(AUDIO_MARKER, message["content"])
    if not audio and not inside:
        for message in messages:
            if _TAG.search(message["content"]):
                raise ManifestError(f"{where}: has an audio tag and no audio; add it, or remove the tag")
    return messages, audio or inside


def _audio_of(
    values: Mapping[str, Any], columns: Mapping[str, str], given: Mapping[str, str], where: str
) -> list[Any]:
    named = [key for key in _AUDIO_KEYS if values.get(key)]
    if "audio" in given or columns.get("audio") not in (None, *_AUDIO_KEYS):
        named = [columns["audio"]]
    if len(named) > 1:
        raise ManifestError(
            f"{where}: the columns {', '.join(map(repr, named))} could each be the audio; say which: "
            f"columns: {{audio: {named[0]}}}"
        )
    value = values.get(named[0]) if named else None
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def _instruction_turns(values: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Turns of a row with `instruction`, `input`, `output` or `query`, `response`, and earlier rounds in `history`."""
    history = values.get("history") or []
    rounds = list(history) if isinstance(history, list) else [history]
    for number, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ManifestError(
                f"{where}: history[{number}] is {shown(pair, 80)}; expected a question and an answer"
            )
    asked = next(values[key] for key in _ASKED if key in values)
    answer = next(values[key] for key in _ANSWERED if key in values)
    more = values.get("input")
    if isinstance(more, str) and more.strip() and isinstance(asked, str):
        asked = f"{asked}\n{more}"
    turns = []
    for question, reply in [*rounds, (asked, answer)]:
        turns.append({"role": "user", "content": question})
        if reply is not None:
            turns.append({"role": "assistant", "content": reply})
    return turns


def _message(turn: Any, where: str, audio: list[Any]) -> dict[str, str]:
    """One turn; recordings among its parts are appended to `audio`."""
    if not isinstance(turn, dict):
        raise ManifestError(f"{where} is {shown(turn, 80)}; expected a turn with role and content")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in _ROLES:
        raise ManifestError(f"{where} has role {shown(role, 80)}; expected one of {', '.join(_ROLES)}")
    if turn.get("loss") in (False, 0) and _ROLES[role] == "assistant":
        raise ManifestError(
            f"{where} has loss: {shown(turn['loss'], 80)}, but every assistant turn is trained on; remove the turn, or "
            "its loss"
        )
    if isinstance(content, list):
        content = "".join(
            _part(part, f"{where}.content[{place}]", audio) for place, part in enumerate(content)
        )
    if not isinstance(content, str):
        raise ManifestError(f"{where} has content {shown(content, 80)}; expected text or a list of parts")
    return {"role": _ROLES[role], "content": content}


def _part(part: Any, where: str, audio: list[Any]) -> str:
    """The text of a part of a turn; a marker for audio."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and isinstance(part.get("text"), str) and kind in (None, "text"):
        return str(part["text"])
    if isinstance(part, dict) and kind in (None, "audio", "audio_url", "input_audio"):
        keys = ("audio", "audio_url", "input_audio", "path", "url", "audio_path", "data", "bytes")
        value = next((part[key] for key in keys if part.get(key)), None)
        if value is not None:
            audio.append(value)
            return AUDIO_MARKER
    raise ManifestError(f"{where} is {shown(part, 80)}; expected a part of type text or audio")
