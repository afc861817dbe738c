"""Remote storage through `fsspec`: recognising addresses, and paths that read them like local folders.

`RemotePath` is a `Path` whose checks and listings ask the storage, and `alm.common.files.open_regular` opens it.
Contents are fetched in blocks, which are cached on disk up to a limit (`ALM_REMOTE_CACHE_GB`). Only object stores are
supported; `http(s)` is not, so that no manifest can make the reader connect to a host of its choice.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path, PosixPath
from typing import Any, BinaryIO, TypeVar

from alm.common.errors import ConfigError, StorageError, UserError
from alm.common.storage.blocks import BLOCK_BYTES, BlockCache

PROTOCOLS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}
"""Protocols of addresses, and the package that implements each."""

T = TypeVar("T")

_ADDRESS = re.compile(rf"({'|'.join(PROTOCOLS)}):/{{1,2}}(.*)", re.DOTALL)  # `Path` makes one slash of two
_OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What storages call the version of an object; the first that is there counts.
_VERSIONS = (
    *("ETag", "etag", "e_tag", "blob_id", "generation", "md5Hash", "content_md5"),
    *("LastModified", "last_modified", "mtime", "updated", "created"),
)  # fmt: skip
_TRIES = 3
_WAIT_S = 0.5  # before the second try; twice that before the third
_KNOWN_S = 600.0  # size and version of an object are asked again after this time
_MOST_KNOWN = 100_000
_AHEAD_BLOCKS = 16  # blocks fetched together when a file is read from start to end


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address of remote storage; the only place that decides this."""
    return _ADDRESS.match(os.fspath(path)) is not None


def to_path(path: str | os.PathLike[str]) -> Path:
    """The path of a local file or of one in remote storage."""
    return RemotePath(path) if is_remote(path) else Path(path)


def path_exists(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there, as `os.path.exists` says, or in remote storage."""
    return RemotePath(path).exists() if is_remote(path) else os.path.exists(path)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there, as `os.path.isdir` says, or in remote storage."""
    return RemotePath(path).is_dir() if is_remote(path) else os.path.isdir(path)


def joined(folder: Path, name: str) -> Path:
    """A file in a folder; an address, like an absolute path, is used as it is."""
    return RemotePath(name) if is_remote(name) else folder / name


def check_protocol(path: str, what: str = "", error: type[UserError] = ConfigError) -> None:
    """Refuse a source with `://` that is not a known address.

    Args:
        path: The source.
        what: Name of the source in errors; empty is the source itself.
        error: Class of the error to raise.

    Raises:
        UserError: Raised as `error`; names the known protocols.
    """
    if not is_remote(path) and _OTHER.match(path) and not os.path.lexists(path):
        known = ", ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
        raise error(
            f"{what or path}: expected a path, or an address that begins with {known}; download it first"
        )


class RemotePath(PosixPath):
    """The path of a file or folder in remote storage, for example `s3://bucket/folder/a.wav`."""

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, and as modification time a number made from the object's version, which changes when it is replaced.

        Raises:
            FileNotFoundError: There is no such object or folder.
            StorageError: The storage does not answer, or denies access.
        """
        info = _info(self, known=False)
        mode = 0o040555 if info["type"] == "directory" else 0o100444
        times = {"st_mtime_ns": int.from_bytes(_version(info)[:7], "big")}
        return os.stat_result((mode, 0, 0, 1, 0, 0, int(info.get("size") or 0), 0, 0, 0), times)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object or a folder of this name."""
        return self._type() is not None

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._type() == "file"

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        return self._type() == "directory"

    def is_symlink(self) -> bool:
        """No storage has links."""
        return False

    def absolute(self) -> RemotePath:
        """The path itself: an address is absolute."""
        return self

    def is_absolute(self) -> bool:
        """An address is absolute."""
        return True

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path itself; there are no links."""
        return self

    def expanduser(self) -> RemotePath:
        """The path itself."""
        return self

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """The objects and folders directly in this one."""
        yield from (self / name for name in sorted(self.sizes()))

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every object and folder directly in this one, by name, in one request."""
        found = _asked(self, lambda system, name: system.ls(name, detail=True))
        return {posixpath.basename(one["name"].rstrip("/")): int(one.get("size") or 0) for one in found}

    def glob(self, pattern: str, **_: Any) -> Generator[RemotePath, None, None]:
        """The objects and folders that match a pattern."""
        found = _asked(self, lambda system, name: system.glob(f"{name.rstrip('/')}/{pattern}"))
        protocol = str(self).partition("://")[0]
        # `fsspec` lists names with or without the protocol.
        names = sorted(str(name).rpartition("://")[2].lstrip("/") for name in found)
        yield from (RemotePath(f"{protocol}://{name}") for name in names)

    def rglob(self, pattern: str, **_: Any) -> Generator[RemotePath, None, None]:
        """The objects and folders at any depth that match a pattern."""
        return self.glob(f"**/{pattern}")

    def _type(self) -> str | None:
        try:
            return str(_info(self, known=False)["type"])
        except FileNotFoundError:
            return None


def open_remote(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an object for reading; its blocks are fetched when they are read.

    Raises:
        OSError: There is no such object, or it is a folder.
        StorageError: The storage does not answer, or denies access.
    """
    return io.BufferedReader(_Stream(RemotePath(path)), BLOCK_BYTES)


def read_remote_range(path: str | os.PathLike[str], at: int, size: int, ahead: int = 0) -> bytes:
    """Bytes of an object; fewer where it ends earlier.

    Args:
        path: The object.
        at: Offset of the first byte.
        size: Number of bytes.
        ahead: Number of blocks to fetch besides, if any must be fetched.

    Raises:
        OSError: There is no such object, or it is a folder.
        StorageError: It cannot be fetched, or not all of it arrives.
    """
    path = RemotePath(path)
    length, key = _size_and_key(path)
    stop = min(at + size, length)
    if stop <= at:
        return b""
    first, last = at // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
    held: dict[int, bytes] = {}
    number = first
    while number <= last:
        block = _BLOCKS.get(key, number, min(BLOCK_BYTES, length - number * BLOCK_BYTES))
        if block is not None:
            held[number] = block
            number += 1
            continue
        until = min(max(last, number + ahead), (length - 1) // BLOCK_BYTES)
        end = number + 1
        while end <= until and end - number < _AHEAD_BLOCKS and not _BLOCKS.has(key, end):
            end += 1
        data = _fetched(path, number * BLOCK_BYTES, min(end * BLOCK_BYTES, length))
        for place in range(number, end):
            begin = (place - number) * BLOCK_BYTES
            held[place] = data[begin : begin + BLOCK_BYTES]
            _BLOCKS.put(key, place, held[place])
        number = end
    whole = b"".join(held[place] for place in range(first, last + 1))
    return whole[at - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]


def local_copy(path: Path) -> Path:
    """A local copy of a file, for libraries that map files into memory; a local file is returned as it is.

    Raises:
        OSError: There is no such object, or the copy cannot be written.
        StorageError: It cannot be fetched.
    """
    if not is_remote(path):
        return path
    length, key = _size_and_key(RemotePath(path))
    copy = _BLOCKS.file(key, "copy")
    if not copy.is_file() or copy.stat().st_size != length:
        with open_remote(path) as stream:
            _BLOCKS.write(copy, iter(lambda: stream.read(_AHEAD_BLOCKS * BLOCK_BYTES), b""))
    return copy


class _Stream(io.RawIOBase):
    """An object as a stream of bytes that can be read anywhere."""

    def __init__(self, path: RemotePath) -> None:
        self.path, self.at = path, 0
        self.length = _size_and_key(path)[0]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.at = start + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any, /) -> int:
        data = read_remote_range(self.path, self.at, len(buffer), ahead=_AHEAD_BLOCKS - 1)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


_BLOCKS = BlockCache()
_known: dict[str, tuple[float, dict[str, Any]]] = {}


def _size_and_key(path: RemotePath) -> tuple[int, str]:
    """Size of an object, and the name that its present version has in the cache."""
    info = _info(path, known=True)
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    digest = hashlib.sha256(f"{path}\n{info['size']}\n".encode("utf-8", "surrogateescape") + _version(info))
    return int(info["size"]), digest.hexdigest()[:32]


def _version(info: dict[str, Any]) -> bytes:
    named = next((f"{name}={info[name]}" for name in _VERSIONS if info.get(name)), "")
    return hashlib.sha256(f"{info.get('size')} {named}".encode()).digest()


def _info(path: RemotePath, known: bool) -> dict[str, Any]:
    """The storage's metadata of an object; with `known`, recent metadata is reused."""
    name = str(path)
    if known and name in _known and time.monotonic() - _known[name][0] < _KNOWN_S:
        return _known[name][1]
    info: dict[str, Any] = _asked(path, lambda system, inner: system.info(inner))
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[name] = (time.monotonic(), info)
    return info


def _fetched(path: RemotePath, start: int, stop: int) -> bytes:
    """Bytes of an object, all of them."""

    def fetch(system: Any, name: str) -> bytes:
        data: bytes = system.cat_file(name, start=start, end=stop)
        if len(data) != stop - start:
            raise OSError(None, f"{len(data)} of {stop - start} bytes from {start} on arrived")
        return data

    return _asked(path, fetch)


def _asked(path: RemotePath, ask: Callable[[Any, str], T]) -> T:
    """Send a request to the storage, and repeat it after a temporary failure."""
    name = _checked_name(path)
    system = _system(path)
    for attempt in range(_TRIES):
        try:
            return ask(system, name)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        except (IsADirectoryError, NotADirectoryError) as error:
            raise OSError(error.errno, "it is a folder, or its parent is a file") from error
        except PermissionError as error:
            raise StorageError(
                f"{path}: access is denied ({_words(error)}); check your credentials"
            ) from error
        except Exception as error:  # each package has errors of its own
            if attempt == _TRIES - 1:
                raise StorageError(
                    f"{path}: cannot be fetched ({_words(error)}); check the address, your credentials and the network"
                ) from error
            time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("not reached")


def _words(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{text or type(error).__name__:.300}"


def _system(path: RemotePath) -> Any:
    """The file system of an address; each process opens its own, as connections do not survive a fork."""
    import fsspec

    protocol = str(path).partition("://")[0]
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        package = PROTOCOLS[protocol]
        raise ConfigError(
            f"{path}: {protocol}:// needs the package {package}; run pip install {package}"
        ) from error


def _checked_name(path: RemotePath) -> str:
    """The address for `fsspec`, without `..`.

    Raises:
        ConfigError: It names no object, leaves its bucket, or holds what `fsspec` takes for something else.
    """
    found = _ADDRESS.match(str(path))
    if found is None:
        raise ConfigError(f"{path}: names no object; expected {str(path).partition(':')[0]}://BUCKET/NAME")
    protocol, rest = found.groups()
    inner = posixpath.normpath(rest) if rest.strip("/") else ""
    if not inner or inner.split("/")[0] in (".", "..") or "::" in rest or "\0" in rest:
        raise ConfigError(f"{path}: is not the address of an object; expected {protocol}://BUCKET/NAME")
    bucket = rest.lstrip("/").split("/")[0]
    if inner.lstrip("/").split("/")[0] != bucket:
        raise ConfigError(f"{path}: leaves its bucket {bucket!r}; give the whole address")
    return f"{protocol}://{inner.lstrip('/')}"
