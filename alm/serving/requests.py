"""Chat requests in OpenAI's form, checked field by field.

Requests are untrusted: they cannot name a file of the server, or an address that is not public.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alm.common.errors import AudioError, UserError, shown
from alm.common.text import decode_base64, one_line

Message = dict[str, str]

_ROLES = ("system", "user", "assistant")
_MAX_STOPS = 4  # as OpenAI
# All prompts wait for the tokenizer, which takes a second or more for a megabyte.
_MAX_CHARACTERS = 1 << 20
_MAX_MESSAGES = 4096
_LONGEST_ERROR = 1000  # it may quote what was sent, and a log holds it
_FIELDS = {
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "seed", "stop",
}  # fmt: skip
# Fields without an effect here, with the values that are accepted; any other value is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,), "store": (False,),
    "modalities": (["text"],), "response_format": ({"type": "text"},), "tool_choice": ("none", "auto"),
    "tools": ([],), "logit_bias": ({},), "parallel_tool_calls": (True, False), "service_tier": ("auto", "default"),
}  # fmt: skip
# Fields that identify the caller; they are ignored.
_NO_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key")


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Attributes:
        body_bytes: Largest body.
        audio_s: Longest audio in seconds, all clips of a request together.
        clips: Maximum number of clips.
        allow_urls: Whether audio may be fetched from public `http(s)` addresses.
        fetch_s: Longest time in seconds that fetching one file may take.
    """

    body_bytes: int = 32 << 20
    audio_s: float = 600.0
    clips: int = 16
    allow_urls: bool = False
    fetch_s: float = 20.0


class RequestError(UserError):
    """A request that is refused.

    Args:
        status: HTTP status code.
        message: One line.
        code: Short name of the reason, as OpenAI's `error.code`.
        param: The field that is wrong.
        retry_after_s: When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        text = one_line(message[: 2 * _LONGEST_ERROR])
        super().__init__(text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…")
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass
class ChatRequest:
    """A request that has passed the checks of its form; its audio is not decoded yet.

    Attributes:
        messages: Roles and texts, with one marker per clip.
        sources: The clips in order: (where in the request, the bytes of a file or an address).
        stream: Send the answer piece by piece.
        include_usage: End a stream with the number of tokens.
        max_new_tokens: Longest answer in tokens; None leaves it to the server.
        temperature: 0 is greedy decoding.
        top_p: Sample from the likeliest tokens that have this probability together; None keeps the model's own.
        seed: Seed of sampling.
        stop: Texts that end the answer, and are not part of it.
        clips: The decoded clips, mono float32 at the model's sample rate.
    """

    messages: list[Message]
    sources: list[tuple[str, bytes | str]]
    stream: bool = False
    include_usage: bool = False
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    clips: list[np.ndarray] = field(default_factory=list)


def read_request(body: Any, model: str, audio_token: str, limits: Limits) -> ChatRequest:
    """Check a chat request.

    Args:
        body: The parsed JSON.
        model: Name of the served model.
        audio_token: Marker of a clip in the model's prompts.
        limits: What a request may ask for.

    Raises:
        RequestError: A field is unknown, missing, of the wrong type or over its limit.
    """
    if not isinstance(body, dict):
        raise _wrong(None, f"the body is {shown(body, 40)}; expected a JSON object")
    given = {key: value for key, value in body.items() if value is not None and key not in _NO_EFFECT}
    for key, value in given.items():
        if key in _NEUTRAL:
            if value not in _NEUTRAL[key]:
                raise _wrong(
                    key, f"{key}={shown(value, 60)} is not supported; leave it out", "unsupported_parameter"
                )
        elif key not in _FIELDS:
            raise _wrong(key, f"unknown field {shown(key, 60)}; leave it out", "unknown_parameter")
    if given.get("model") != model:
        raise RequestError(
            404,
            f"model {shown(given.get('model'), 80)} is not served here; use {model!r}",
            "model_not_found",
            "model",
        )
    messages, sources = _messages(given.get("messages"), audio_token, limits)
    lengths = [key for key in ("max_tokens", "max_completion_tokens") if key in given]
    if len(lengths) > 1:
        raise _wrong(lengths[0], "max_tokens and max_completion_tokens are two names of one limit; give one")
    stop = given.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stop, list)
        or len(stop) > _MAX_STOPS
        or not all(isinstance(s, str) and s for s in stop)
    ):
        raise _wrong("stop", f"stop: expected a text or up to {_MAX_STOPS} texts")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or not set(options) <= {"include_usage"}:
        raise _wrong("stream_options", "stream_options: expected {'include_usage': true}")
    return ChatRequest(
        messages,
        sources,
        stream=_flag(given, "stream"),
        include_usage=_flag(options, "include_usage"),
        max_new_tokens=_whole(given, lengths[0], 1, 1 << 20) if lengths else None,
        temperature=_number(given, "temperature", 0.0, 2.0) or 0.0,
        top_p=_number(given, "top_p", 0.0, 1.0, above=True),
        seed=_whole(given, "seed", -(1 << 63), (1 << 63) - 1),
        stop=stop,
    )


def decode_clips(request: ChatRequest, sample_rate: int, limits: Limits) -> list[np.ndarray]:
    """Fetch and decode the clips of a request; call it in a thread.

    Args:
        request: A checked request.
        sample_rate: The model's, in Hz.
        limits: What a request may ask for.

    Returns:
        Waveforms (S,), mono float32.

    Raises:
        RequestError: Audio that is too long (413), or cannot be fetched or decoded (422).
    """
    from encoders.audio import decode_audio, fetch_audio
    from encoders.audio.limits import TooLongError, limited

    left_s = limits.audio_s
    clips = []
    for where, source in request.sources:
        try:
            if isinstance(source, str):
                source = fetch_audio(source, limits.body_bytes, limits.fetch_s, public_only=True)
            with limited(left_s):
                clip = decode_audio(source, where, sample_rate)
        except TooLongError as error:
            total = "" if left_s == limits.audio_s else f" ({limits.audio_s:g} s for all clips together)"
            raise RequestError(413, f"{error}{total}", "audio_too_long", "messages") from error
        except AudioError as error:
            message = str(error) if where in str(error) else f"{where}: {error}"
            raise RequestError(422, message, "invalid_audio", "messages") from error
        left_s -= len(clip) / sample_rate
        clips.append(clip)
    return clips


def _messages(
    given: Any, audio_token: str, limits: Limits
) -> tuple[list[Message], list[tuple[str, bytes | str]]]:
    if not isinstance(given, list) or not given:
        raise _wrong("messages", "messages: expected a list of messages, the last one of the user")
    if len(given) > _MAX_MESSAGES:
        raise _wrong(
            "messages", f"messages: {len(given)}, more than the limit of {_MAX_MESSAGES}", status=413
        )
    messages: list[Message] = []
    sources: list[tuple[str, bytes | str]] = []
    for i, message in enumerate(given):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise _wrong(where, f"{where} is {shown(message, 40)}; expected an object with role and content")
        present = {key: value for key, value in message.items() if value not in (None, [])}
        role = present.pop("role", None)
        if role not in _ROLES:
            raise _wrong(where, f"{where}.role is {shown(role, 40)}; expected one of {', '.join(_ROLES)}")
        content = present.pop("content", "")
        if present:
            raise _wrong(
                where, f"{where} has {', '.join(map(shown, present))}; only role and content are supported"
            )
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(items, list):
            raise _wrong(where, f"{where}.content is {shown(content, 40)}; expected text or a list of parts")
        pieces = []
        for j, item in enumerate(items):
            place = f"{where}.content[{j}]" if items is content else f"{where}.content"
            text, source = _part(item, place, limits)
            if source is not None:
                if role != "user":
                    raise _wrong(place, f"{place}: only messages of the user hold audio")
                sources.append((place, source))
                text = audio_token
            elif audio_token in text:
                raise _wrong(place, f"{place}: the text holds {audio_token}, the model's marker of audio")
            pieces.append(text)
        messages.append({"role": role, "content": "".join(pieces)})
    n_characters = sum(len(message["content"]) for message in messages)
    if n_characters > _MAX_CHARACTERS:
        raise _wrong(
            "messages",
            f"messages: {n_characters} characters of text, more than the limit of {_MAX_CHARACTERS}",
            "text_too_long",
            413,
        )
    if messages[-1]["role"] != "user":
        raise _wrong("messages", "messages: the last message must be of the user")
    if len(sources) > limits.clips:
        raise _wrong(
            "messages", f"messages: {len(sources)} clips, more than the limit of {limits.clips}", status=413
        )
    return messages, sources


def _part(item: Any, where: str, limits: Limits) -> tuple[str, bytes | str | None]:
    """The text of a part, or its clip."""
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text" and isinstance(item.get("text"), str):
        return item["text"], None
    value = item.get(kind) if kind in ("input_audio", "audio_url") else None
    if kind == "input_audio" and isinstance(value, dict) and isinstance(value.get("data"), str):
        return "", _base64(value["data"], f"{where}.input_audio.data")
    if kind == "audio_url" and isinstance(value, dict) and isinstance(value.get("url"), str):
        return "", _address(value["url"], f"{where}.audio_url.url", limits)
    raise _wrong(
        where,
        f"{where} is {shown(item, 60)}; expected {{'type': 'text', 'text': …}}, {{'type': 'input_audio', "
        "'input_audio': {'data': base64, 'format': …}} or {'type': 'audio_url', 'audio_url': {'url': …}}",
    )


def _base64(text: str, where: str) -> bytes:
    if text[:5].lower() == "data:":  # some clients send an address here
        text = text.partition(",")[2]
    try:
        data = decode_base64(text)
    except ValueError as error:
        raise _wrong(where, f"{where}: is not valid base64; encode the file's bytes again") from error
    if not data:
        raise _wrong(where, f"{where}: is empty; encode the file's bytes")
    return data


def _address(url: str, where: str, limits: Limits) -> bytes | str:
    from encoders.audio import fetch_audio, url_name

    if url[:5].lower() == "data:":
        try:
            return fetch_audio(url, limits.body_bytes)
        except AudioError as error:
            raise _wrong(where, f"{where}: {error}") from error
    if url[:7].lower() != "http://" and url[:8].lower() != "https://":
        raise _wrong(
            where, f"{where}: {url_name(url)} is not a data: address; send the audio itself", "invalid_url"
        )
    if not limits.allow_urls:
        raise _wrong(
            where, f"{where}: this server fetches no addresses; send the audio itself", "invalid_url"
        )
    return url


def _flag(given: dict[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(key, f"{key} is {shown(value, 40)}; expected true or false")
    return value


def _whole(given: dict[str, Any], key: str, least: int, most: int) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(key, f"{key} is {shown(value, 40)}; expected a whole number from {least} to {most}")
    return value


def _number(given: dict[str, Any], key: str, least: float, most: float, above: bool = False) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not (least < value if above else least <= value)
        or value > most
    ):
        raise _wrong(
            key,
            f"{key} is {shown(value, 40)}; expected a number {'above' if above else 'from'} {least:g} to {most:g}",
        )
    return float(value)


def _wrong(param: str | None, message: str, code: str = "invalid_value", status: int = 400) -> RequestError:
    return RequestError(status, message, code, param)
