"""Errors that are the user's to fix: the command line prints their one line and exits with code 2."""

from __future__ import annotations


class UserError(Exception):
    """Base of every error the user can fix.

    The message is one line: what was got, what was expected, where (file, line, config key) and the fix.
    """


class AudioError(UserError):
    """Audio that cannot be read or is too short, empty, corrupt or not audio at all."""


class CheckpointError(UserError):
    """Weights that are missing, unreadable or do not fit the module they are loaded into."""


class ConfigError(UserError):
    """An unknown config key, a value of the wrong type or values that contradict each other."""
