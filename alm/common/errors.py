"""Typed errors for invalid input; the command line prints their one line and exits with code 2."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Base of every error that the user can fix.

    The message is one line: what was got, what was expected, where (file, line, config key) and the fix.

    Attributes:
        sample: Index of the sample at fault, if several were given at once.
    """

    sample: int | None = None


class AudioError(UserError):
    """Audio that cannot be read, or is too short, empty, corrupt or not audio at all."""


class CheckpointError(UserError):
    """Weights that are missing, unreadable or do not fit the module they are loaded into."""


class ConfigError(UserError):
    """An unknown config key, a value of the wrong type, or values that contradict each other."""


class ManifestError(UserError):
    """A manifest or a table that cannot be read; the message names file and line."""


class StorageError(ManifestError):
    """A data file that is missing, truncated or unreachable. It concerns more than one sample, so it ends a run."""


class Preempted(Exception):
    """The run received SIGTERM or SIGUSR1 and saved a checkpoint; the same command resumes from it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextmanager
def about_sample(index: int) -> Iterator[None]:
    """Set the `sample` of an error raised inside."""
    try:
        yield
    except UserError as error:
        error.sample = index
        raise


@contextmanager
def in_samples(indices: Sequence[int]) -> Iterator[None]:
    """Map the `sample` of an error raised inside, an index into a batch, to the index of that sample in `indices`."""
    try:
        yield
    except UserError as error:
        if error.sample is not None:
            error.sample = indices[error.sample]
        raise


@contextmanager
def naming_samples(names: Sequence[str]) -> Iterator[None]:
    """Put the name of the `sample` of an error raised inside before its message."""
    try:
        yield
    except UserError as error:
        if error.sample is None:
            raise
        raise type(error)(f"{names[error.sample]}: {error}") from error


def shown(value: object, length: int = 200) -> str:
    """A value as an error message shows it: its `repr`, shortened in the middle if it is long.

    Args:
        value: Anything, also numbers of thousands of digits and deeply nested lists.
        length: Most characters of the result.
    """
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number above 10^{math.floor(math.log10(abs(value)))}"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of more than 4300 digits inside
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 + 1 :]}"


def did_you_mean(name: object, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """The end of an error message about an unknown name: the nearest known name, as the fix.

    Args:
        name: The unknown name; a key of a YAML file may also be a number.
        known: The names that would be valid.
        otherwise: The fix if no known name is near.
        cutoff: Lowest similarity of a near name, from 0 to 1.
    """
    near = get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else otherwise
