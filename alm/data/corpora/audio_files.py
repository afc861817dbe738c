"""Finding the recordings that a corpus names: one rule for conversion, fine-tuning and benchmarks.

Published corpora come without audio, or audio is renamed, re-encoded and unpacked in various ways. So a file may differ
from its name in the table in the suffix, in leading folders, in spaces around it and in how Unicode composes accents.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alm.common.errors import ConfigError, ManifestError
from encoders.audio import AUDIO_SUFFIXES


@dataclass(frozen=True)
class Clip:
    """A recording of a corpus, or a part of one.

    Attributes:
        name: As the corpus names it.
        path: The file; if it is missing, a path where it would be found.
        start_s: Start of the part, in seconds; None is the file's start.
        end_s: Its end, in seconds; None is the file's end.
    """

    name: str
    path: Path
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class _Found:
    folder: Path
    parts: tuple[str, ...]  # names of the folders from the searched one down
    name: str


class AudioFiles:
    """The audio files below some folders, by name.

    Args:
        folders: Searched at any depth, as soon as a file is not at the exact path that its name gives.

    Raises:
        ConfigError: One does not exist.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no such folder of audio; check the path")
        self._index: dict[str, list[_Found]] | None = None
        self._folder_names: set[str] = set()

    def has_folder(self, name: str) -> bool:
        """Whether any audio file is in a folder of this name, at any depth."""
        self._files()
        return name in self._folder_names

    def clip(
        self,
        *names: str,
        inside: Sequence[str] = (),
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> Clip:
        """The recording that has one of several names.

        Args:
            names: Names that the file may have, likeliest first; leading folders count where several files fit.
            inside: The file must lie in one of these folders, at any depth; empty allows any folder.
            start_s: Start of the part, in seconds.
            end_s: Its end, in seconds.

        Raises:
            ConfigError: Two files fit equally well.
        """
        order = sorted(names, key=lambda name: -name.count("/"))  # folders make a name more specific
        path = self._exact(order, inside)
        path = path or next(filter(None, (self._by_name(name, inside) for name in order)), None)
        return Clip(names[0], path or self._expected(names[0]), start_s, end_s)

    def all(self) -> list[Path]:
        """Every audio file, sorted."""
        return sorted(file.folder / file.name for files in self._files().values() for file in files)

    def _exact(self, names: Sequence[str], inside: Sequence[str]) -> Path | None:
        """The file that is where its name says, below one of the folders."""
        for name in names:
            place = PurePosixPath(name)
            if place.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            for folder in self.folders:
                if is_file(folder / place) and _lies_inside((folder.name, *place.parts[:-1]), inside):
                    return folder / place
        return None

    def _by_name(self, name: str, inside: Sequence[str]) -> Path | None:
        """The file whose name fits; of several, the one whose folders agree with the name."""
        wanted = PurePosixPath(name)
        files = [
            file for file in self._files().get(_key(_stem(wanted)), ()) if _lies_inside(file.parts, inside)
        ]
        if not files:
            return None
        ranks = [_agreement(file, wanted) for file in files]
        best = [file for file, rank in zip(files, ranks, strict=True) if rank == max(ranks)]
        if len({(file.folder, _stem(file.name)) for file in best}) > 1:
            raise ConfigError(
                f"audio '{name}': {best[-1].folder / best[-1].name} and {best[-2].folder / best[-2].name} both fit; "
                "name a narrower folder (--audio), or remove one"
            )
        chosen = min(best, key=lambda file: AUDIO_SUFFIXES.index(Path(file.name).suffix.lower()))
        return chosen.folder / chosen.name

    def _expected(self, name: str) -> Path:
        """Where the file would be found."""
        suffix = "" if Path(name).suffix.lower() in AUDIO_SUFFIXES else AUDIO_SUFFIXES[0]
        return self.folders[0] / f"{name}{suffix}"

    def _files(self) -> dict[str, list[_Found]]:
        if self._index is None:
            self._index = {}
            seen: set[tuple[int, int]] = set()
            for folder in self.folders:
                self._add(folder, seen)
        return self._index

    def _add(self, root: Path, seen: set[tuple[int, int]]) -> None:
        assert self._index is not None
        for place, folders, names in os.walk(root, followlinks=True, onerror=_cannot_read):
            stat = os.stat(place)
            if (stat.st_dev, stat.st_ino) in seen:  # a link, or a folder below an earlier one
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            folder = Path(place)
            parts = (root.resolve().name, *folder.relative_to(root).parts)
            audio = [name for name in sorted(names) if Path(name).suffix.lower() in AUDIO_SUFFIXES]
            for name in audio:
                self._index.setdefault(_key(_stem(name)), []).append(_Found(folder, parts, name))
            if audio:
                self._folder_names.update(parts)


def is_file(path: Path) -> bool:
    """Whether a file is there; also false for names that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def segment_names(video: str, start_s: float, end_s: float) -> tuple[str, ...]:
    """File names that downloaders give a part of a video: with its times in seconds or milliseconds, or without.

    Args:
        video: Its id; some tools put a `Y` in front.
        start_s: Start of the part, in seconds.
        end_s: Its end, in seconds.
    """
    names = []
    for name in (video, f"Y{video}"):
        names += [f"{name}_{start_s:g}", f"{name}_{round(start_s)}", f"{name}_{int(start_s)}"]
        for unit in (1, 1000):
            start, end = round(start_s * unit), round(end_s * unit)
            names += [f"{name}_{start}_{end}", f"{name}_{start}"]
        names += [f"{name}_{int(start_s):06d}", f"{name}_{start_s:.3f}_{end_s:.3f}"]
        names += [f"[{name}]-[{int(start_s)}-{int(end_s)}]"]
    return tuple(dict.fromkeys([*names, video, f"Y{video}"]))


def _cannot_read(error: OSError) -> None:
    raise ManifestError(
        f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
    ) from error


def _stem(name: str | PurePosixPath) -> str:
    """A file name without an audio suffix; other endings belong to the name."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name


def _key(stem: str) -> str:
    """A normal form of a name's spellings: composed accents, no spaces around it."""
    return unicodedata.normalize("NFC", stem).strip()


def _lies_inside(parts: tuple[str, ...], inside: Sequence[str]) -> bool:
    """Whether one of some folders (names or ends of paths) is among the folders of a file."""
    if not inside:
        return True
    path = f"/{'/'.join(parts)}/"
    return any(f"/{folder.strip('/')}/" in path for folder in inside)


def _agreement(file: _Found, wanted: PurePosixPath) -> tuple[int, bool, bool]:
    """The number of equal folders, counted from the file upwards; whether the name is equal; whether the suffix is."""
    shared = 0
    for own, other in zip(reversed(file.parts), reversed(wanted.parts[:-1]), strict=False):
        if own != other:
            break
        shared += 1
    suffix = PurePosixPath(file.name).suffix
    return shared, _stem(file.name) == _stem(wanted), suffix == wanted.suffix
