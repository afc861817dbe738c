"""Checks for names that come from data and become file names."""

from __future__ import annotations

from alm.common.errors import ManifestError

# File systems allow 255 bytes; suffixes and the marks of temporary files are added to the name.
_LONGEST_NAME_BYTES = 200


def check_file_name(name: str, where: str) -> str:
    r"""Check that a name from a table, a config or a manifest can become the name of one file in a folder.

    Every converter, reader and writer calls this before it turns such a name into a path, so that no input can
    write outside its output folder.

    Args:
        name: The name without its folder; a suffix may be added to it later.
        where: What the name is and where it was found (`table.csv:3: split`), for the error.

    Returns:
        The name, unchanged.

    Raises:
        ManifestError: The name is empty, holds `/`, `\` or characters that cannot be printed, begins with a dot or
            a space, ends with a space, or is longer than 200 bytes.
    """
    problem = _problem(name)
    if problem:
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ManifestError(
            f"{where} is {shown!r}, which {problem}; it becomes a file name: choose another name"
        )
    return name


def _problem(name: str) -> str | None:
    if not name:
        return "is empty"
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if name.startswith("."):
        return "begins with a dot"
    if name != name.strip():
        return "begins or ends with a space"
    if not name.isprintable():  # control characters, line ends, lone surrogates, invisible marks
        return "contains characters that cannot be printed"
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        return f"is {len(name.encode())} bytes long (at most {_LONGEST_NAME_BYTES})"
    return None
