"""The errors that are the user's to fix; the command line prints them as one line and exits with 2."""

import sys

from encoders.errors import AudioError, CheckpointError, ConfigError, UserError

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "ManifestError",
    "Preempted",
    "UserError",
    "is_users",
]


class ManifestError(UserError):
    """A manifest, or a label table, that cannot be read; the message names file and line."""


class Preempted(Exception):
    """A run was asked to leave (SIGTERM, SIGUSR1) and saved a checkpoint; the same command goes on from it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def is_users(error: BaseException) -> bool:
    """Whether an error is one of those that say what the user can do about it."""
    projectors = sys.modules.get(
        "projectors"
    )  # not imported for this: without it, none of its errors can occur
    return isinstance(error, UserError) or (
        projectors is not None and isinstance(error, projectors.ProjectorError)
    )
