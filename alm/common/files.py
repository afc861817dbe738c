"""Writing files so that a half-written one is never seen."""

import hashlib
import os
import tempfile
from pathlib import Path

from alm.common.errors import ManifestError


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file through a temporary file beside it, so that no half-written file is ever seen.

    Args:
        path: The file to write; its folder must exist.
        text: Its whole content, written as UTF-8.

    Raises:
        ManifestError: The file cannot be written.
    """
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)  # temporary files are private; a manifest is not
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ManifestError(
            f"{path}: cannot write it ({error.strerror}); use a folder you may write to"
        ) from error


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
