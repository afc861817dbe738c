"""The errors that are the user's to fix; the command line prints them as one line and exits with 2."""

from encoders.errors import AudioError, CheckpointError, ConfigError, UserError

__all__ = ["AudioError", "CheckpointError", "ConfigError", "ManifestError", "UserError"]


class ManifestError(UserError):
    """A manifest, or a label table, that cannot be read; the message names file and line."""
