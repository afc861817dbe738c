"""The longest audio that is decoded: a small compressed file can decode to more samples than memory holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from alm.common.errors import AudioError, ConfigError

MAX_SECONDS_VARIABLE = "ALM_MAX_AUDIO_S"
"""Environment variable: longest audio in seconds that is decoded; longer files and segments are refused unread."""

_MAX_SECONDS = 3600.0
# A file of many channels or a high rate may take no more memory than the longest one at 48 kHz in stereo.
_MAX_VALUES_PER_SECOND = 2 * 48_000
_limited_to: ContextVar[float | None] = ContextVar("limited_to", default=None)


class TooLongError(AudioError):
    """Audio that is longer than the limit."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Set the length limit inside this block, whatever the environment says: for untrusted audio.

    Args:
        seconds: The limit; it holds in this thread or task alone.
    """
    token = _limited_to.set(seconds)
    try:
        yield
    finally:
        _limited_to.reset(token)


def max_seconds() -> float:
    """Longest audio in seconds that is decoded: an hour, what `ALM_MAX_AUDIO_S` says, or what `limited` says.

    Raises:
        ConfigError: The variable is not a number above 0.
    """
    if (limit := _limited_to.get()) is not None:
        return limit
    text = os.environ.get(MAX_SECONDS_VARIABLE)
    if text is None:
        return _MAX_SECONDS
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"{MAX_SECONDS_VARIABLE} is {text!r}; expected a number of seconds above 0")
    return value


def check_seconds(seconds: float, file: str, values: int = 0) -> None:
    """Refuse audio that is too long to decode.

    Args:
        seconds: Length of what would be decoded.
        file: Name of the file in errors.
        values: Samples times channels of it.

    Raises:
        TooLongError: It is longer than `max_seconds`, or has more values than that length has at 48 kHz in stereo.
    """
    limit = max_seconds()
    needed = max(seconds, values / _MAX_VALUES_PER_SECOND)
    if needed > limit:
        what = (
            f"{seconds:.6g} s long" if seconds > limit else f"as large as {needed:.6g} s at 48 kHz in stereo"
        )
        more = (
            ""
            if _limited_to.get() is not None
            else f", or set {MAX_SECONDS_VARIABLE}={needed * 1.001:.0f} to decode it"
        )
        raise TooLongError(f"{file}: is {what}, over the limit of {limit:g} s; give a segment of it{more}")
