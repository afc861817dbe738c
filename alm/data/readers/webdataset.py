"""WebDataset tar files of other toolkits: members with the same stem form one sample (`0001.flac`, `0001.json`).

The JSON holds the columns of a row, or a conversation; `.txt` is the answer to `prompt`, `.cls` a label. Tars are
scanned once; after that recordings are read in place. `path` is a tar file or a folder of them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError, shown
from alm.common.files import open_regular, reason
from alm.common.json_text import parse_json
from alm.common.storage.remote import to_path
from alm.data.readers.base import DataSource, Reader, Row
from alm.data.readers.normalise import to_row
from encoders.audio import AUDIO_SUFFIXES

_TEXTS = {"txt": "text", "cls": "label", "id": "id"}
_LONGEST_TEXT = 64 << 20


class WebDatasetReader(Reader):
    """Samples in tar files without an index of ours."""

    takes = ("columns", "prompt")

    def recognises(self, path: Path) -> bool:
        """A tar file, or a folder of tar files without our index."""
        if path.is_dir():
            return not (path / "index.json").exists() and next(path.glob("*.tar"), None) is not None
        return path.suffix == ".tar" and path.is_file()

    def files(self, source: DataSource) -> list[Path]:
        """The tar files, sorted."""
        path = to_path(source.path)
        return sorted(path.glob("*.tar")) if path.is_dir() else [path]

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        tars = self.files(source)
        if not tars:
            raise ManifestError(f"{source.path}: holds no tar files; name another folder")
        for path in tars:
            prefix = f"{path.stem}/" if len(tars) > 1 else ""
            for where, stem, members in _samples(path):
                yield self._row(path, where, stem, members, prefix, source)

    def _row(
        self,
        path: Path,
        where: str,
        stem: str,
        members: dict[str, tuple[str, int, int, bytes]],
        prefix: str,
        source: DataSource,
    ) -> Row:
        values: dict[str, Any] = {}
        # Values of the other members; they override those of the JSON, in whatever order the members come.
        beside: dict[str, str] = {"id": f"{prefix}{stem}"}
        audio: list[dict[str, Any]] = []
        for suffix, (name, at, size, data) in members.items():
            if f".{suffix.rpartition('.')[2]}" in AUDIO_SUFFIXES:
                audio.append({"kind": "range", "path": path.name, "name": name, "at": at, "size": size})
            elif suffix == "json":
                found = parse_json(_decoded(data, where, name), f"{where}: {name}")
                if not isinstance(found, dict):
                    raise ManifestError(f"{where}: {name} holds {shown(found, 80)}; expected an object")
                values = found
            elif suffix in _TEXTS:
                beside[_TEXTS[suffix]] = _decoded(data, where, name).strip()
        if not audio:
            raise ManifestError(
                f"{where}: no audio beside {', '.join(name for name, *_ in members.values())}; expected a member "
                f"{stem}{AUDIO_SUFFIXES[0]}, or of another audio format"
            )
        # The JSON may still hold file names of the original recordings, which are not part of the tar.
        values = {key: value for key, value in values.items() if key not in _FILE_NAMES} | beside
        return to_row(values, where, path.parent, source, {"audio": audio if len(audio) > 1 else audio[0]})


_FILE_NAMES = ("audio", "audios", "audio_path", "audio_filepath", "audio_file", "file_name", "filename", "path", "file",
               "filepath", "wav", "sound")  # fmt: skip


def _samples(path: Path) -> Iterator[tuple[str, str, dict[str, tuple[str, int, int, bytes]]]]:
    """Each sample's place, stem, and members by suffix: name, offset, size, and content of what is no audio."""
    stem, members, at = "", dict[str, tuple[str, int, int, bytes]](), 0
    try:
        with open_regular(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.issparse():
                    raise ManifestError(
                        f"{path}:{member.offset}: {member.name!r} is sparse; write the tar again"
                    )
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                first, dot, suffix = name.partition(".")
                this = f"{folder}/{first}" if folder else first
                if not dot or not first:
                    continue
                if members and this != stem:
                    yield f"{path}:{at}", stem, members
                    members = {}
                if not members:
                    stem, at = this, member.offset
                suffix = suffix.lower()
                if suffix in members:
                    raise ManifestError(
                        f"{path}:{member.offset}: {member.name!r} is there twice; write the tar again"
                    )
                text = suffix == "json" or suffix in _TEXTS
                if text and member.size > _LONGEST_TEXT:
                    raise ManifestError(
                        f"{path}:{member.offset}: {member.name!r} has {member.size} bytes of text"
                    )
                data = b""
                if text:
                    content = tar.extractfile(member)
                    data = content.read() if content else b""
                members[suffix] = (member.name, member.offset_data, member.size, data)
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ManifestError(f"{path}: is truncated: it has no end mark; copy it again")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise ManifestError(
            f"{path}: cannot be read as a tar file ({reason(error)}); copy it again"
        ) from error
    if members:
        yield f"{path}:{at}", stem, members


def _decoded(data: bytes, where: str, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: {name}: byte {error.start} is not UTF-8") from error


READER = WebDatasetReader()
