"""Reading of regular files, and atomic writing of files and folders: they appear complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from alm.common.errors import ManifestError, UserError
from alm.common.storage.remote import is_remote, open_remote

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_NOT_REGULAR = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def reason(error: Exception) -> str:
    """Why a file operation failed, in a few words; without the path, which the message names already."""
    # PyAV's errors have `strerror` too; their own text also holds a file number.
    if words := getattr(error, "strerror", None):
        return str(words)
    return "the name holds a NUL character" if "null byte" in str(error) else str(error)


def make_folder(directory: str | os.PathLike[str], error_class: type[UserError] = UserError) -> Path:
    """Make a folder to save into, with its parents; it may exist.

    Raises:
        UserError: Raised as `error_class`: the folder cannot be made.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise error_class(f"{folder}: cannot be made ({reason(error)}); choose another") from error
    return folder


def disk_problem(error: BaseException) -> str | None:
    """Why a write failed, if the disk is full or read-only; libraries wrap that in exceptions of their own.

    Returns:
        For example `No space left on device`; None if the error has another cause.
    """
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return os.strerror(error.errno)
    return next((text for text in map(os.strerror, _DISK_ERRORS) if text in str(error)), None)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, here or in remote storage, for reading.

    Pipes and devices, which could block forever, are refused.

    Raises:
        OSError: The file is missing, cannot be read or is not a regular file; `reason` puts it into words.
        ValueError: The path holds a NUL character or cannot be encoded.
        StorageError: Remote storage does not answer, or denies access.
    """
    if is_remote(path):
        return open_remote(path)
    _check_regular(os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(os.fstat(handle).st_mode)
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _NOT_REGULAR.get(stat.S_IFMT(mode), "something else")
        raise OSError(None, f"it is {kind}, not a regular file")


def read_bytes(
    path: str | os.PathLike[str], what: str = "a file", error: type[UserError] = ManifestError
) -> bytes:
    """Read a whole regular file.

    Args:
        path: The file.
        what: What is expected there, for the error.
        error: Class of the error to raise.

    Raises:
        UserError: Raised as `error`: the file is missing, not regular or cannot be read.
    """
    try:
        with open_regular(path) as stream:
            return stream.read()
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({reason(problem)}); expected {what}") from problem


def read_text(
    path: str | os.PathLike[str], what: str = "a text file", error: type[UserError] = ManifestError
) -> str:
    """Read a whole UTF-8 file, see `read_bytes`; line ends are kept."""
    try:
        return read_bytes(path, what, error).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: byte {problem.start} is not UTF-8; save it as UTF-8") from problem


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file atomically, through a temporary file beside it.

    Args:
        path: The file to write; its folder must exist.
        text: Its whole content, written as UTF-8.

    Raises:
        ManifestError: The file cannot be written.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{path}: cannot write {text[error.start : error.end]!r}, which UTF-8 cannot hold; rename the file or "
            "replace the character"
        ) from error
    write_bytes_atomic(path, data)


def write_bytes_atomic(
    path: Path, data: bytes, error: type[UserError] = ManifestError, clean: bool = True
) -> None:
    """Write a file atomically, through a temporary file beside it, with the permissions that the umask gives.

    Args:
        path: The file to write; its folder must exist.
        data: Its whole content.
        error: Class of the error to raise.
        clean: Remove temporary files of killed writers of this file; this lists the folder.

    Raises:
        UserError: Raised as `error`: the file cannot be written. Nothing of it is left behind.
    """
    temporary: Path | None = None
    try:
        if clean:
            remove_leftovers(path)
        temporary, stream = locked_file(path)
        with stream:
            stream.write(data)
            stream.flush()
            os.replace(temporary, path)
    except (OSError, ValueError) as problem:
        if temporary is not None:
            with suppress(OSError, ValueError):
                temporary.unlink(missing_ok=True)
        raise error(
            f"{path}: cannot be written ({reason(problem)}); choose a folder that exists, is writable and has room"
        ) from problem
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path at which a library can write a file; it becomes `path` if the block ends without an error.

    It is in a hidden folder beside `path`: temporary files of the library itself are removed with the folder, also
    those that a killed process left.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        Where to write it.

    Raises:
        OSError: The folder cannot be written.
    """
    remove_leftovers(path)
    partial, handle = _locked_folder(path)
    try:
        yield partial / path.name
        os.replace(partial / path.name, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Fill a hidden folder that becomes `out` when the block ends without an error, and is removed otherwise.

    Each writer has its own folder, so that two processes with the same `out` cannot mix their files. The next process
    with the same `out` removes the folder of a killed one.

    Args:
        out: The folder to make; it must not exist, or be empty. Missing parents are made.

    Yields:
        The folder to fill.

    Raises:
        UserError: `out` holds something, or the folder cannot be written (no permission, no space).
    """
    target = Path(os.path.abspath(out))  # `.` has no name to put a hidden folder beside
    partial: Path | None = None
    handle = -1
    try:
        try:
            if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
                raise UserError(f"{out}: exists already; choose a new or empty folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target)
            partial, handle = _locked_folder(target)
            yield partial
            os.replace(partial, target)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) or "null byte" in str(error):
                raise UserError(
                    f"{out}: cannot be written ({reason(error)}); choose a new folder that is writable and has room"
                ) from error
            raise
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def remove_leftovers(out: Path, all_names: bool = False) -> None:
    """Remove the temporary files and folders that killed writers of `out` left beside it.

    A writer that is still running holds a lock on its file or folder, which is then kept.

    Args:
        out: The file or folder that they were writing.
        all_names: Also remove what killed writers of other files left in the same folder.
    """
    name = ".+" if all_names else re.escape(_short(out.name))
    ours = re.compile(rf"\.{name}\.partial(-[0-9a-f]+)?")
    try:
        found = [entry.path for entry in os.scandir(out.parent) if ours.fullmatch(entry.name)]
    except (OSError, ValueError):
        return  # the write that follows names the problem
    for path in found:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # locked by a running writer, or a file system without locks
            continue
        else:
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(path)
        finally:
            os.close(handle)


def locked_file(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file beside `path`, locked as long as it is open; `remove_leftovers` removes unlocked ones."""
    while True:
        temporary = _partial_name(path)
        stream = open(temporary, "xb")  # the caller closes it
        if try_lock(stream.fileno()) and os.fstat(stream.fileno()).st_nlink:
            return temporary, stream
        stream.close()  # another process took it for a leftover before it was locked


def _locked_folder(out: Path) -> tuple[Path, int]:
    """A new hidden folder beside `out`, and the descriptor that holds its lock."""
    while True:
        partial = _partial_name(out)
        partial.mkdir()
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if try_lock(handle) and os.fstat(handle).st_nlink:
            return partial, handle
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where another process, maybe on another host, has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: its leftovers are never removed by others
        return True
    return True


def _partial_name(path: Path) -> Path:
    return path.with_name(f".{_short(path.name)}.partial-{secrets.token_hex(4)}")


def _short(name: str) -> str:
    """The name, shortened to its start and a hash if no prefix and suffix would fit around it."""
    raw = os.fsencode(name)
    return name if len(raw) <= 200 else f"{name[:40]}-{hashlib.sha256(raw).hexdigest()[:16]}"


def apply_umask(path: str | os.PathLike[str]) -> None:
    """Give a private file, or all private files directly in a folder, the permissions of a newly opened file.

    `safetensors` and `tempfile` write files with mode 0600, which other users of a machine cannot read.

    Args:
        path: A file, or a folder; files with another mode than 0600 keep it.
    """
    path = Path(path)
    for file in path.iterdir() if path.is_dir() else (path,):
        if not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o600 and file.is_file():
            file.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The umask, without changing it: `os.umask` can only read it by setting it, for all threads."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def file_entry(path: Path) -> dict[str, Any]:
    """Size and content hash of a file, as `changed_file` compares them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def changed_file(folder: Path, files: Any, listed_in: str, hashes: bool = True) -> str | None:
    """Compare files with a list of them; None if all are as listed.

    Args:
        folder: Folder that the names are relative to.
        files: The list: `bytes` and perhaps `sha256` by name. It may be damaged itself.
        listed_in: Name of the file that holds the list, for the answer.
        hashes: Compare contents; False compares only sizes.

    Returns:
        The first difference in words, for example `model.safetensors is missing`.
    """
    if not isinstance(files, dict) or not files:
        return f"{listed_in} lists no files"
    for name, wanted in files.items():
        if not isinstance(wanted, dict) or not isinstance(wanted.get("bytes"), int):
            return f"{listed_in} does not give the size of {name}"
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"]:
            return f"{name} has {path.stat().st_size} of {wanted['bytes']} bytes"
        if hashes and "sha256" in wanted and sha256_of(path) != wanted["sha256"]:
            return f"{name} has changed"
    return None
