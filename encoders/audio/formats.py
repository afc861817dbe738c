"""Finding audio files by name, and all audio files of a folder."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from alm.common.storage.remote import is_remote, to_path

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64",
    ".m4a", ".aac", ".mp4", ".m4b", ".webm", ".weba", ".mka", ".wma", ".amr", ".3gp", ".aifc", ".snd", ".mp2", ".mp1",
    ".mpga", ".spx", ".ac3", ".eac3", ".mkv", ".mov", ".avi", ".m4v", ".3g2", ".asf", ".wmv", ".flv", ".m2ts", ".mts",
    ".mpg", ".mpeg", ".ogv", ".ogx", ".wv", ".tta", ".ape", ".dts", ".voc", ".gsm",
)  # fmt: skip
"""Suffixes, in lower case, of the files that a search of a folder takes for audio: recordings first, then video files.

Of two files that fit a name equally well, the one whose suffix stands first here is used."""

_SIDE_FILES = frozenset(".json .jsonl .csv .tsv .txt .md .yaml .yml .html .parquet .py .sh .pdf .log".split())


@dataclass
class Folder:
    """The audio files below a folder, and the number of skipped files.

    Attributes:
        audio: The files, sorted.
        skipped: Number of other files by reason.
    """

    audio: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """The numbers of skipped files with the reasons; empty if none was skipped."""
        return ", ".join(f"{count} {why}" for why, count in sorted(self.skipped.items()))


def has_audio_suffix(name: str | os.PathLike[str]) -> bool:
    """Whether a search of a folder takes a file of this name for audio."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def search(folder: str | os.PathLike[str]) -> Folder:
    """Find the audio files below a folder, at any depth.

    Tables and texts beside the audio are ignored. Every other file that is not taken is counted in `skipped`.

    Args:
        folder: An existing folder; folders that links lead to are not searched.
    """
    found = Folder()

    def unreadable(_error: OSError) -> None:
        found.skipped["folder(s) that cannot be opened"] += 1

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in names:
            path = Path(place, name)
            suffix = path.suffix.lower()
            if suffix in AUDIO_SUFFIXES:
                if name.startswith("._"):  # macOS' resource forks beside files on foreign disks
                    found.skipped["macOS side file(s) (._*)"] += 1
                elif path.is_file():
                    found.audio.append(path)
                else:
                    found.skipped["broken link(s) or no regular file(s)"] += 1
            elif not name.startswith(".") and suffix not in _SIDE_FILES:
                found.skipped[f"file(s) with suffix {suffix!r}" if suffix else "file(s) without suffix"] += 1
    found.audio.sort()
    return found


def find_file(path: Path) -> Path:
    """The file of a name, however its accents are composed; the path itself if no such file exists.

    Args:
        path: As a manifest or a user spells it: macOS decomposes accents (NFD), most others compose them (NFC).

    Returns:
        The path, or the one file beside it whose name is the same in Unicode's sense.
    """
    if is_remote(path):
        return to_path(path)
    if os.path.lexists(path) or path.name.isascii():
        return path
    for form in ("NFC", "NFD"):
        other = Path(unicodedata.normalize(form, str(path)))
        if os.path.lexists(other):
            return other
    with suppress(OSError):
        wanted = unicodedata.normalize("NFC", path.name)
        same = [name for name in os.listdir(path.parent) if unicodedata.normalize("NFC", name) == wanted]
        if len(same) == 1:
            return path.with_name(same[0])
    return path
