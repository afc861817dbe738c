"""Downloading of public corpora: the licence must be accepted, downloads resume, hashes are checked."""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from alm.common.errors import ConfigError, UserError
from alm.common.files import new_folder, reason, sha256_of, write_text_atomic
from alm.common.names import check_file_name

ARCHIVES = "archives"
"""Folder below a corpus that holds what was downloaded, until it is unpacked."""

_BLOCK = 1 << 20
_TRIES = 5  # in a row without a new byte
_WAIT_S = 1.0  # before the second try; twice that before the third, and so on
_SILENT_S = 60.0  # after so long without data the request is sent again


class DownloadError(UserError):
    """A download that failed or is not what was published."""


@dataclass(frozen=True)
class Archive:
    """One file of a corpus' source.

    Attributes:
        url: Its address; the last part of the path is its name.
        sha256: Hex SHA-256 of it.
        folder: Folder below the corpus to unpack it into; empty is the corpus' own.
        default: Whether it is downloaded if no archives are named.
    """

    url: str
    sha256: str
    folder: str = ""
    default: bool = True

    @property
    def name(self) -> str:
        """Its file name."""
        return check_file_name(urlsplit(self.url).path.rpartition("/")[2], f"{self.url}: the name")

    @property
    def part(self) -> str:
        """Its name for `alm data get --parts`: the file name without suffixes."""
        return self.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz").removesuffix(".zip")


@dataclass(frozen=True)
class Download:
    """Where a corpus is published.

    Attributes:
        licence: Name of the licence.
        licence_url: Where its text is.
        page: The corpus' page, for citation and terms.
        archives: Its files.
    """

    licence: str
    licence_url: str
    page: str
    archives: tuple[Archive, ...]

    def chosen(self, parts: Sequence[str]) -> list[Archive]:
        """The archives of some parts; the default ones if no part is named.

        Raises:
            ConfigError: There is no such part; names all.
        """
        names = {archive.part: archive for archive in self.archives}
        for part in parts:
            if part not in names:
                raise ConfigError(f"--parts: got {part!r}; expected some of {', '.join(names)}")
        return [names[part] for part in parts] or [archive for archive in self.archives if archive.default]


def download(
    source: Download,
    out: Path,
    parts: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Download and unpack a corpus. The same call again resumes, or does nothing if the corpus is complete.

    Args:
        source: Where it is published.
        out: Folder of the corpus.
        parts: Parts of it; empty means the default ones.
        progress: Called with the downloaded bytes of an archive and its size (0: unknown).

    Returns:
        The folders that archives were unpacked into.

    Raises:
        UserError: A part is unknown, the server does not answer, a hash differs, or the folder cannot be written.
    """
    archives = source.chosen(parts)
    folder = out / ARCHIVES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            done = folder / f"{archive.name}.unpacked"
            if done.is_file() and done.read_text() == archive.sha256:
                continue
            path = folder / archive.name
            _fetch(archive, path, progress)
            unpack(path, out / archive.folder)
            write_text_atomic(done, archive.sha256)
            path.unlink()
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"{out}: cannot be written ({reason(error)}); choose a folder that is writable and has room"
        ) from error
    return [out / archive.folder for archive in archives]


def _fetch(archive: Archive, path: Path, progress: Callable[[int, int], None]) -> None:
    """Download an archive, from where an earlier call stopped, and compare its hash."""
    partial = path.with_name(f"{path.name}.partial")
    if not path.is_file():
        failures = 0
        while True:
            before = partial.stat().st_size if partial.is_file() else 0
            try:
                _append(archive.url, partial, before, progress)
                break
            except urllib.error.HTTPError as error:
                # 416: the file is complete already, or not the published one; the hash decides.
                if error.code == 416 and before:
                    break
                if error.code < 500:
                    raise DownloadError(
                        f"{archive.url}: the server answers {error.code} {error.reason}; see the corpus' page"
                    ) from error
                problem: Exception = error
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                problem = error
            gained = (partial.stat().st_size if partial.is_file() else 0) > before
            failures = 0 if gained else failures + 1
            if failures >= _TRIES:
                why = getattr(problem, "reason", None) or problem
                why = " ".join(str(problem if isinstance(problem, urllib.error.HTTPError) else why).split())
                raise DownloadError(
                    f"{archive.url}: download failed ({why or type(problem).__name__}); the same command resumes it"
                ) from problem
            time.sleep(_WAIT_S * 2**failures / 2)
        os.replace(partial, path)
    found = sha256_of(path)
    if found != archive.sha256:
        path.unlink()
        raise DownloadError(
            f"{archive.url}: the downloaded file is not the published one (SHA-256 {found}, expected "
            f"{archive.sha256}); it was removed, try again"
        )


def _append(url: str, partial: Path, start: int, progress: Callable[[int, int], None]) -> None:
    """Append the missing part of a file; download it again if the server does not resume."""
    headers = {"User-Agent": "alm", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENT_S) as answer:
        resumed = answer.status == 206
        if resumed and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
            raise http.client.HTTPException("the server resumes from another place")
        done = start if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else 0
        with partial.open("ab" if resumed else "wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                done += len(block)
                progress(done, total)
        if done < total:
            raise http.client.HTTPException(f"{done} of {total} bytes arrived")


def unpack(archive: Path, out: Path) -> None:
    """Unpack a tar or zip archive into a folder, next to its present files; no member may leave the folder.

    Raises:
        DownloadError: It is damaged, no archive, or holds a path that leads out of the folder or a special file.
    """
    hidden = out / f".{archive.name}.unpacking"
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(hidden)
        out.mkdir(parents=True, exist_ok=True)
        with new_folder(hidden) as folder:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(folder)  # strips path parts that lead out of the folder
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(folder, filter="data")
        _merge(hidden, out)
        shutil.rmtree(hidden)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: cannot be unpacked ({error}); download it again") from error


def _merge(source: Path, target: Path) -> None:
    """Move the files of a folder to their places in another one."""
    for item in sorted(source.iterdir()):
        place = target / item.name
        if item.is_dir() and not item.is_symlink() and place.is_dir():
            _merge(item, place)
        else:
            os.replace(item, place)
