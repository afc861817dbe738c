"""Records: clips and the conversation about them, and parsing of the forms that a line of a manifest may have."""

import difflib
import hashlib
import json
import re
import stat
import string
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from alm.common.errors import AudioError, ManifestError, UserError, shown
from alm.common.files import read_bytes
from alm.common.storage.remote import check_protocol, joined
from encoders.audio.formats import find_file

if TYPE_CHECKING:
    import numpy as np

    from encoders.audio import AudioHeader

T = TypeVar("T")

AUDIO_MARKER = "<|audio|>"

CAPTION_PROMPTS: tuple[str, ...] = (
    "Describe the sounds in this recording.",
    "Write a caption for this audio.",
    "What can be heard in this clip? Answer in one sentence.",
    "Summarise this recording in one sentence.",
    "Describe what happens in the audio.",
    "Give a short description of this sound clip.",
)
"""Wordings of the request for a caption; a record without its own `prompt` gets one chosen by its id."""

_ROLES = ("system", "user", "assistant")
_BODIES = ("messages", "question", "captions")
_KEYS = frozenset({"id", "audio", "answer", "choices", "kind", "clip", "prompt", *_BODIES})
_OWNERS = (("answer", "question"), ("choices", "question"), ("prompt", "captions"))
_AUDIO_KEYS = ("path", "start_s", "end_s")
_LATEST_S = 1e9  # 31 years
_MARKERS = re.compile(rf"\s*{re.escape(AUDIO_MARKER)}[ \t]*")
_TURN_KEYS = {"role", "content"}
_TURN_FORM = '{"role", "content"}'
_AUDIO_FORM = 'a path or {"path", "start_s", "end_s"}'


@dataclass(frozen=True)
class AudioRef:
    """A file, or the part of it between two times.

    Attributes:
        path: The audio file; relative paths are already joined to the manifest's folder.
        start_s: Start of the segment in seconds; None is the beginning of the file.
        end_s: End of the segment in seconds; None is the end of the file.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None

    def load(self, sample_rate: int) -> "np.ndarray":
        """The clip as a waveform (S,) float32 in [-1, 1] at `sample_rate` Hz.

        Raises:
            AudioError: The file is missing, not audio, truncated, or empty in the requested segment.
        """
        from encoders.audio import load_audio

        return load_audio(self.path, sample_rate, self.start_s, self.end_s)

    def read_bytes(self) -> bytes:
        """The whole file, as it is stored.

        Raises:
            AudioError: The file is missing, is not a regular file, or cannot be read.
        """
        return read_bytes(find_file(self.path), "an audio file", AudioError)

    def exists(self) -> bool:
        """Whether the file exists."""
        return self.state() is not None

    def state(self) -> tuple[int, int] | None:
        """Size in bytes and time of change in ns, which differ for a replaced file; None if there is no file."""
        try:
            status = find_file(self.path).stat()
        except (OSError, ValueError):  # ValueError: a name with a NUL character
            return None
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def header(self) -> "AudioHeader":
        """Length, rate and channels of the whole file, without decoding it.

        Raises:
            AudioError: The file's header cannot be read.
        """
        from encoders.audio import read_header

        return read_header(self.path)

    def seconds(self) -> float:
        """Length of the clip without decoding it.

        Raises:
            AudioError: The file's header cannot be read.
        """
        end_s = self.header().seconds if self.end_s is None else self.end_s
        return end_s - (self.start_s or 0.0)

    def check(self) -> None:
        """Check, without decoding, that the file can be read and holds the clip.

        Raises:
            AudioError: The file's header cannot be read, or the clip begins after its end or is shorter than a sample.
        """
        self.header().check_segment(str(self.path), self.start_s, self.end_s)

    @property
    def file_name(self) -> str:
        """The file's name, without its folder."""
        return self.path.name

    @property
    def whole(self) -> str:
        """A key of the whole recording: equal for all segments of one."""
        return str(self.path)


@dataclass(frozen=True)
class Record:
    """One sample: audio and the conversation about it.

    Attributes:
        id: Unique within its manifest.
        audio: The audio the conversation refers to, in the order of its markers; none for text alone.
        messages: The conversation as `{"role", "content"}` dicts, with one `<|audio|>` per audio in the
            user turns. It ends with the assistant's answer if that is known. Empty for audio without text.
        kind: `caption`, `qa` or the manifest's `kind`; `audio` for audio without text.
        question: The last user turn's text with its choices and without audio markers.
        answer: The last assistant turn's text; None if the manifest has `null`.
        choices: The options of a multiple-choice question.
        captions: All captions of a captioning record.
        clip: The recording or scene the record is about; statistics are clustered by it.
        meta: All other keys of the record, unchanged.
        source: `file:line` of the record.
    """

    id: str
    audio: tuple[AudioRef, ...]
    messages: tuple[dict[str, str], ...]
    kind: str
    question: str
    answer: str | None
    choices: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    clip: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def references(self) -> tuple[str, ...]:
        """The right answers: all captions, or the one answer, or nothing."""
        if self.captions:
            return self.captions
        return () if self.answer is None else (self.answer,)

    def conversation(self, index: int = 0) -> tuple[dict[str, str], ...]:
        """The messages with the `index`-th caption (modulo their number) as the answer.

        Args:
            index: Which caption; ignored for records without captions.

        Returns:
            The conversation; it ends with the assistant's answer if the answer is known.
        """
        if not self.captions:
            return self.messages
        caption = self.captions[index % len(self.captions)]
        return (*self.messages[:-1], {"role": "assistant", "content": caption})

    @property
    def prompt_messages(self) -> tuple[dict[str, str], ...]:
        """The conversation up to and including the last user turn, which a model is asked to continue."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


class LazySequence(Sequence[T], Generic[T]):
    """A sequence that makes its items one by one, when they are asked for."""

    @abstractmethod
    def item(self, index: int) -> T:
        """The item of a number, which is not negative and below the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """One item, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.item(int(index % len(self)))

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(len(self)))


class LazyRecords(LazySequence[Record]):
    """Records that are read on access, one for each row of a table."""

    rows: "np.ndarray"

    def __len__(self) -> int:
        return len(self.rows)


def format_choices(question: str, choices: Sequence[str]) -> str:
    """Put the options of a multiple-choice question under it as lines `A. text`.

    Args:
        question: The question.
        choices: At most 26 options; without options the question is returned unchanged.

    Returns:
        The question with its options.
    """
    if not choices:
        return question
    options = zip(string.ascii_uppercase, choices, strict=False)
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options)])


def parse_record(data: Mapping[str, Any], base: Path, source: str, audio_only: bool = False) -> Record:
    """Check one line of a manifest and turn it into a record.

    Args:
        data: The decoded line.
        base: The folder that relative audio paths start from.
        source: `file:line`, for error messages.
        audio_only: Accept a record without text, for pretraining; its kind is `audio`.

    Returns:
        The record.

    Raises:
        ManifestError: What is wrong, what was expected and where.
    """
    checked = check_record(data, source, audio_only)
    refs = tuple(AudioRef(joined(base, name), start_s, end_s) for name, start_s, end_s in checked.audio)
    messages, last_user = checked.messages, ""
    for message in messages:
        if message["role"] == "user":
            last_user = message["content"]
    answered = bool(messages) and messages[-1]["role"] == "assistant"
    return Record(
        id=checked.id,
        audio=refs,
        messages=tuple(messages),
        kind=checked.kind,
        question=_without_markers(last_user),
        answer=messages[-1]["content"] if answered else None,
        choices=checked.choices,
        captions=checked.captions,
        clip=checked.clip,
        meta={key: value for key, value in data.items() if key not in _KEYS},
        source=source,
    )


class CheckedRecord(NamedTuple):
    """The checked values of a manifest's line; an index needs no others.

    Attributes:
        id: The id, given or generated.
        audio: Path as written, start and end in seconds of each recording.
        messages: The conversation with its audio markers; empty for audio without text.
        kind: As in `Record`.
        choices: As in `Record`.
        captions: As in `Record`.
        clip: As in `Record`.
    """

    id: str
    audio: list[tuple[str, float | None, float | None]]
    messages: list[dict[str, str]]
    kind: str
    choices: tuple[str, ...]
    captions: tuple[str, ...]
    clip: str


def check_record(data: Mapping[str, Any], source: str, audio_only: bool = False) -> CheckedRecord:
    """Check one line of a manifest; see `parse_record`.

    Raises:
        ManifestError: What is wrong, what was expected and where.
    """
    identifier = _text(data, "id", source) if "id" in data else made_id(data, source)
    audio = _parse_audio(data, source)
    if "clip" in data:
        clip = _text(data, "clip", source)
    elif len(audio) == 1:
        clip = audio[0][0]
    else:  # the paths as written; the id for a conversation without audio
        clip = "+".join(dict.fromkeys(name for name, _, _ in audio)) or identifier
    given = [key for key in _BODIES if key in data]
    if not given and audio_only and audio:
        return CheckedRecord(identifier, audio, [], "audio", (), (), clip)
    if len(given) != 1:
        got = " and ".join(map(repr, given)) if given else f"none of them{_near_miss(data)}"
        raise ManifestError(
            f"{source}: expected exactly one of 'messages', 'question', 'captions'; got {got}"
            + ("" if given else " (audio alone is for stage pretrain)")
        )
    for key, owner in _OWNERS:
        if key in data and owner not in data:
            raise ManifestError(f"{source}: {key!r} belongs with {owner!r}; this record has {given[0]!r}")
    choices: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    if "messages" in data:
        messages = _parse_messages(data["messages"], source)
    elif "question" in data:
        choices = _texts(data, "choices", source) if "choices" in data else ()
        messages = _parse_question(data, choices, source)
    else:
        captions = _texts(data, "captions", source)
        prompt = _text(data, "prompt", source) if "prompt" in data else caption_prompt(identifier)
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": captions[0]},
        ]
    _place_markers(messages, len(audio), source)
    kind = _text(data, "kind", source) if "kind" in data else ("caption" if captions else "qa")
    return CheckedRecord(identifier, audio, messages, kind, choices, captions, clip)


def made_id(values: Mapping[str, Any], source: str) -> str:
    """An id for a record without one: its file's name and line, and a hash of its content.

    It stays the same when the file's folder is moved or renamed.

    Args:
        values: The record.
        source: `file:line`.
    """
    file, _, place = source.rpartition(":")
    text = json.dumps(values, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return f"{PurePath(file).stem}-{place.strip().replace(' ', '-')}-{digest[:8]}"


def note_id(
    identifier: str, source: str, seen: dict[str, str], error: type[UserError] = ManifestError
) -> None:
    """Remember in `seen` where a record's id is used.

    Raises:
        UserError: Raised as `error`: another record has this id.
    """
    if identifier in seen:
        raise error(f"{source}: id {identifier!r} was already used at {seen[identifier]}; make ids unique")
    seen[identifier] = source


def caption_prompt(identifier: str) -> str:
    """Choose the wording of the caption request for a record.

    Args:
        identifier: The record's id; the same id always gets the same wording, in every process.

    Returns:
        One of `CAPTION_PROMPTS`.
    """
    digest = hashlib.sha256(identifier.encode("utf-8")).digest()
    return CAPTION_PROMPTS[int.from_bytes(digest[:4], "big") % len(CAPTION_PROMPTS)]


def _near_miss(data: Mapping[str, Any]) -> str:
    """A hint for a mistyped key: ` (did you mean 'question' for 'quesiton'?)`."""
    for key in data:
        close = difflib.get_close_matches(key, _BODIES, n=1, cutoff=0.75) if key not in _KEYS else []
        if close:
            return f" (did you mean {close[0]!r} for {shown(key)}?)"
    return ""


def _text(data: Mapping[str, Any], key: str, source: str) -> str:
    if key not in data:
        raise ManifestError(f"{source}: {key!r} is missing; expected a non-empty string")
    value = data[key]
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{source}: {key!r} is {shown(value)}; expected a non-empty string")
    return value


def _texts(data: Mapping[str, Any], key: str, source: str) -> tuple[str, ...]:
    value = data[key]
    whole = isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)
    if not whole or not value:
        raise ManifestError(f"{source}: {key!r} is {shown(value)}; expected a list of non-empty strings")
    return tuple(value)


def _parse_audio(data: Mapping[str, Any], source: str) -> list[tuple[str, float | None, float | None]]:
    """Path as written, start and end of each recording."""
    if "audio" not in data:
        raise ManifestError(
            f"{source}: 'audio' is missing; expected {_AUDIO_FORM} or a list of them ([] for text alone)"
        )
    value = data["audio"]
    if isinstance(value, str) and value:
        _check_path(value, source)
        return [(value, None, None)]
    return [_parse_ref(item, source) for item in (value if isinstance(value, list) else [value])]


def _parse_ref(item: Any, source: str) -> tuple[str, float | None, float | None]:
    if isinstance(item, str) and item:
        _check_path(item, source)
        return item, None, None
    if not isinstance(item, dict):
        raise ManifestError(f"{source}: 'audio' holds {shown(item)}; expected {_AUDIO_FORM}")
    for key in item:
        if key not in _AUDIO_KEYS:
            near = difflib.get_close_matches(key, _AUDIO_KEYS, n=1, cutoff=0.0)[0]
            raise ManifestError(f"{source}: unknown key {shown(key)} in 'audio'; the nearest one is {near!r}")
    name = _text(item, "path", source)
    _check_path(name, source)
    times: dict[str, float | None] = {}
    for key in ("start_s", "end_s"):
        value = item.get(key)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (numeric and 0 <= value <= _LATEST_S):
            raise ManifestError(
                f"{source}: {key!r} is {shown(value)}; expected seconds from 0 to {_LATEST_S:.0f}"
            )
        times[key] = None if value is None else float(value)
    start_s, end_s = times["start_s"], times["end_s"]
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ManifestError(
            f"{source}: the audio ends at {end_s} s; expected after its start, {start_s or 0.0} s"
        )
    return name, start_s, end_s


def _check_path(name: str, source: str) -> None:
    if "\0" in name:
        raise ManifestError(f"{source}: the path {shown(name)} in 'audio' holds a NUL character; correct it")
    check_protocol(name, f"{source}: {shown(name)} in 'audio'", ManifestError)


def _parse_messages(value: Any, source: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ManifestError(f"{source}: 'messages' is {shown(value)}; expected a list of turns {_TURN_FORM}")
    messages: list[dict[str, str]] = []
    for index, item in enumerate(value):
        if not isinstance(item, dict) or item.keys() != _TURN_KEYS:
            raise ManifestError(f"{source}: messages[{index}] is {shown(item)}; expected {_TURN_FORM}")
        if not isinstance(item["role"], str) or item["role"] not in _ROLES:
            raise ManifestError(
                f"{source}: messages[{index}] has role {shown(item['role'])}; expected one of {', '.join(_ROLES)}"
            )
        if not isinstance(item["content"], str) or not item["content"].strip():
            raise ManifestError(
                f"{source}: messages[{index}] has content {shown(item['content'])}; expected a non-empty string"
            )
        messages.append({"role": item["role"], "content": item["content"]})
    turns = [message["role"] for message in messages]
    turns = turns[1:] if turns[0] == "system" else turns
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2):
        raise ManifestError(
            f"{source}: 'messages' has the roles {shown([message['role'] for message in messages])}; "
            "expected an optional system turn, then user and assistant in turn"
        )
    return messages


def _parse_question(data: Mapping[str, Any], choices: tuple[str, ...], source: str) -> list[dict[str, str]]:
    question = _text(data, "question", source)
    if len(choices) > len(string.ascii_uppercase) or len(set(choices)) != len(choices):
        raise ManifestError(f"{source}: {len(choices)} 'choices'; expected at most 26, all different")
    if "answer" not in data:
        raise ManifestError(f"{source}: 'answer' is missing; give null where it is not known")
    messages = [{"role": "user", "content": format_choices(question, choices)}]
    if data["answer"] is not None:
        answer = _text(data, "answer", source)
        if choices and answer not in choices:
            raise ManifestError(
                f"{source}: the answer {shown(answer)} is not one of the choices {shown(list(choices))}"
            )
        messages.append({"role": "assistant", "content": answer})
    return messages


def _place_markers(messages: list[dict[str, str]], n_audio: int, source: str) -> None:
    """Put one marker per audio before the first user turn's text, unless the manifest placed them itself."""
    placed, first = 0, None
    for message in messages:
        user = message["role"] == "user"
        first = message if first is None and user else first
        if AUDIO_MARKER in message["content"]:
            placed += message["content"].count(AUDIO_MARKER)
            if not user:
                raise ManifestError(f"{source}: {AUDIO_MARKER} stands outside a user turn; move it into one")
    if not placed:
        assert first is not None
        first["content"] = AUDIO_MARKER * n_audio + first["content"]
    elif placed != n_audio:
        raise ManifestError(
            f"{source}: {placed} {AUDIO_MARKER} for {n_audio} audio; expected one each, or none"
        )


def _without_markers(text: str) -> str:
    return _MARKERS.sub(" ", text).strip() if AUDIO_MARKER in text else text
