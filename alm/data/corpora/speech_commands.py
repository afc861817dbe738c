"""Speech Commands V1 and V2 (Warden 2018): one folder per word, `validation_list.txt`, `testing_list.txt`.

The classes are all words (30 in V1, 35 in V2); or the ten commands and a class for all other words (11-way); or
these and silence (12-way). Names are `<speaker>_nohash_<n>.wav`; the lists keep speakers apart. There are
many unknown words, so only a share of them is kept, chosen by a hash of the name like the official split. Silence is
cut from `_background_noise_`, and each of its files belongs to one split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import read_text
from alm.data.corpora import AudioFiles, Clip, Corpus, Entries, Entry, check_option
from alm.data.download import Archive, Download
from encoders.audio import seconds_of

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
_NOISE = "_background_noise_"
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


@dataclass(frozen=True)
class SpeechCommands(Corpus):
    """Options.

    Attributes:
        root: The folder of the published archive.
        task: all, 11-way (ten commands and unknown) or 12-way (and silence).
        unknown_share: Unknown words kept in each split, as a share of the command clips in it (10 % officially).
    """

    task: str = "all"
    unknown_share: float = 0.1
    splits = ("train", "validation", "test")
    trainable = True
    download = Download(
        licence="CC BY 4.0",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        page="https://arxiv.org/abs/1804.03209",
        archives=(
            Archive(
                "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",  # as torchaudio compares it
            ),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("task", self.task, ("all", "11-way", "12-way"))

    def class_names(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        """The words with a folder, or the commands and what else the task asks for."""
        if self.task == "all":
            return tuple(self._words())
        return (*COMMANDS, UNKNOWN, *((SILENCE,) if self.task == "12-way" else ()))

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        found = self._recordings()
        if self.task != "all":
            absent = [word for word in COMMANDS if word not in self._words()]
            if absent:
                raise ManifestError(f"{self.root}: no folder for the command '{absent[0]}'; {self.layout()}")
            found = self._with_unknown(found)
        if self.task == "12-way":
            found += _silences(self.path / _NOISE)
        yield from (entry for entry in found if split in (None, entry.split))

    def _words(self) -> list[str]:
        return sorted(f.name for f in self.path.iterdir() if f.is_dir() and not f.name.startswith((".", "_")))

    def _recordings(self) -> list[Entry]:
        """Every word spoken, in folder order, then those that a list names and that are not there."""
        listed: dict[str, tuple[str, str]] = {}
        for part, name in _LISTS.items():
            table = self.table(name)
            for number, line in enumerate(read_text(table, "a list of recordings").splitlines(), start=1):
                if line.strip():
                    listed[line.strip()] = (part, f"{table}:{number}")
        entries = []
        for word in self._words():
            for path in sorted((self.path / word).glob("*.wav")):
                name = f"{word}/{path.name}"
                entries.append(_entry(self.path, name, *listed.pop(name, ("train", str(path)))))
        return entries + [_entry(self.path, name, *place) for name, place in listed.items()]

    def _with_unknown(self, entries: list[Entry]) -> list[Entry]:
        """The commands, and the kept part of the other words as one class."""
        kept = [entry for entry in entries if entry.labels[0] in COMMANDS]
        for part in self.splits:
            n_wanted = round(self.unknown_share * sum(entry.split == part for entry in kept))
            others = [e for e in entries if e.split == part and e.labels[0] not in COMMANDS]
            others.sort(key=lambda entry: _hash(entry.id))
            kept += [replace(entry, labels=(UNKNOWN,)) for entry in others[:n_wanted]]
        return kept


def _entry(root: Path, name: str, split: str, where: str) -> Entry:
    word, _, file = name.partition("/")
    if not file:
        raise ManifestError(
            f"{where}: '{name}' does not have the form word/file.wav; download the list again"
        )
    clip = Clip(name, root / name)
    return Entry(name, (clip,), where, split, labels=(word,), group=file.split("_nohash_")[0])


def _silences(folder: Path) -> list[Entry]:
    """One-second parts of the noise recordings; of n files one is for validation, one for the test."""
    files = sorted(folder.glob("*.wav"), key=lambda path: _hash(path.name))
    if len(files) < 3:
        raise ManifestError(
            f"{folder}: {len(files)} noise recordings; silence in three splits needs three or more"
        )
    entries = []
    for number, path in enumerate(files):
        split = ("test", "validation")[number] if number < 2 else "train"
        for second in range(int(seconds_of(path))):
            name = f"{_NOISE}/{path.stem}_{second}"
            clip = Clip(name, path, float(second), second + 1.0)
            entries.append(Entry(name, (clip,), str(path), split, labels=(SILENCE,), group=path.stem))
    return entries


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8")).hexdigest()


CORPUS = SpeechCommands
