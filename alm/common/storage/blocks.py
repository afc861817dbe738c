"""The disk cache of remote storage: blocks as files; above a limit the least recently used are removed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.storage.cache import cache_folder, remove_least_used

CACHE_LIMIT_VARIABLE = "ALM_REMOTE_CACHE_GB"
"""Environment variable: most gigabytes that blocks of remote files take in the cache folder."""

BLOCK_BYTES = 1 << 20

_DEFAULT_GB = 20.0
_LOOK_SHARE = 100  # the folder's size is measured again when this process has written 1 / 100 of the limit
_KEPT_SHARE = 0.9


class BlockCache:
    """Blocks of objects, each a file, in the folder `remote` of the cache; several processes share it."""

    def __init__(self) -> None:
        self._written = -1  # nothing measured yet

    def file(self, key: str, name: str) -> Path:
        """The file for a block, or for a copy, of the object `key`; it need not exist."""
        return cache_folder("remote") / f"{key}.{name}"

    def has(self, key: str, number: int) -> bool:
        """Whether a block is there."""
        return self.file(key, str(number)).is_file()

    def get(self, key: str, number: int, size: int) -> bytes | None:
        """A block, or None where it is not there as a whole."""
        path = self.file(key, str(number))
        try:
            data = path.read_bytes()
            os.utime(path)  # marks the block as the last used one
        except OSError:
            return None
        return data if len(data) == size else None

    def put(self, key: str, number: int, data: bytes) -> None:
        """Keep a block; where there is no room, nothing is kept."""
        with suppress(OSError):
            self.write(self.file(key, str(number)), (data,))

    def write(self, path: Path, content: Iterable[bytes]) -> None:
        """Write a file of the cache; others see all of it or nothing.

        Raises:
            OSError: It cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        size = 0
        try:
            with open(temporary, "xb") as stream:
                for part in content:
                    stream.write(part)
                    size += len(part)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        limit = _limit_bytes()
        if self._written < 0 or self._written + size > limit // _LOOK_SHARE:
            remove_least_used(path.parent.iterdir(), limit, _KEPT_SHARE, keep=path)
            self._written = 0
        else:
            self._written += size


def _limit_bytes() -> int:
    text = os.environ.get(CACHE_LIMIT_VARIABLE)
    if text is None:
        return int(_DEFAULT_GB * 1e9)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ConfigError(f"{CACHE_LIMIT_VARIABLE} is {text!r}; expected a number of gigabytes above 0")
    return int(value * 1e9)
