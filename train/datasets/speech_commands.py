"""Speech Commands V1 and V2 (Warden 2018): one folder per word, `validation_list.txt`, `testing_list.txt`.

Words are classified among all of them (30 in V1, 35 in V2), or the ten commands against an unknown word (11-way),
with silence besides (12-way). Names are `<speaker>_nohash_<n>.wav`; the lists keep speakers apart. Unknown
words are many, so a share of them is kept, chosen by a hash of the name as the official split chooses; silence is
cut from `_background_noise_`, whole files going to one split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import soundfile

from alm.common.errors import ConfigError, ManifestError
from train.datasets._base import DatasetReader, LabelledClip, LabelledData, checked, folder_of

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
_NOISE = "_background_noise_"
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}


@dataclass(frozen=True)
class SpeechCommands(DatasetReader):
    """Options.

    Attributes:
        root: The folder of the published archive.
        task: all, 11-way (ten commands and unknown) or 12-way (and silence).
        unknown_share: Unknown words kept in each split, as a share of the command clips in it (10 % officially).
    """

    root: str
    task: str = "all"
    unknown_share: float = 0.1

    def __post_init__(self) -> None:
        if self.task not in ("all", "11-way", "12-way"):
            raise ConfigError(f"task: got '{self.task}', expected all, 11-way or 12-way")

    def read(self) -> LabelledData:
        """See the base class."""
        layout = "expected word folders, validation_list.txt and testing_list.txt of the published archive"
        root = folder_of(self.root, what=layout)
        tables = tuple(folder_of(self.root, name, what=layout) for name in _LISTS)
        listed = {name: (split, where) for t in tables for name, split, where in _lines(t, _LISTS[t.name])}
        words = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith((".", "_")))
        clips = [
            _clip(root, f"{word}/{path.name}", *listed.pop(f"{word}/{path.name}", ("train", str(path))))
            for word in words
            for path in sorted((root / word).glob("*.wav"))
        ]
        # What is listed and not there is missing, not unlisted.
        clips += [_clip(root, name, split, where) for name, (split, where) in listed.items()]
        there, notes = checked(clips)
        if self.task == "all":
            return LabelledData(tuple(words), there, notes=notes)
        absent = [word for word in COMMANDS if word not in words]
        if absent:
            raise ManifestError(f"{root}: no folder for the command '{absent[0]}'; {layout}")
        there = self._with_unknown(there)
        if self.task == "12-way":
            there += _silences(folder_of(self.root, _NOISE, what=layout))
        classes = (*COMMANDS, UNKNOWN, *((SILENCE,) if self.task == "12-way" else ()))
        return LabelledData(classes, there, notes=notes)

    def _with_unknown(self, clips: tuple[LabelledClip, ...]) -> tuple[LabelledClip, ...]:
        """The command clips and the kept part of the others, as one class."""
        kept = [clip for clip in clips if clip.labels[0] in COMMANDS]
        for split in ("train", "validation", "test"):
            n_wanted = round(self.unknown_share * sum(clip.split == split for clip in kept))
            others = [clip for clip in clips if clip.split == split and clip.labels[0] not in COMMANDS]
            others.sort(key=lambda clip: _hash(clip.id))
            kept += [_relabel(clip, UNKNOWN) for clip in others[:n_wanted]]
        return tuple(kept)


def _lines(table: Path, split: str) -> list[tuple[str, str, str]]:
    """The names in a list, its split, and where each stands."""
    lines = table.read_text(encoding="utf-8").splitlines()
    return [(line.strip(), split, f"{table}:{n}") for n, line in enumerate(lines, start=1) if line.strip()]


def _clip(root: Path, name: str, split: str, where: str) -> LabelledClip:
    word, _, file = name.partition("/")
    if not file:
        raise ManifestError(f"{where}: '{name}' is no word/file.wav; get the list again")
    return LabelledClip(name, root / name, (word,), where, group=file.split("_nohash_")[0], split=split)


def _relabel(clip: LabelledClip, label: str) -> LabelledClip:
    return LabelledClip(clip.id, clip.path, (label,), clip.where, clip.group, clip.split)


def _silences(folder: Path) -> tuple[LabelledClip, ...]:
    """One-second parts of the noise recordings; of n files one is for validation, one for the test."""
    files = sorted(folder.glob("*.wav"), key=lambda path: _hash(path.name))
    if len(files) < 3:
        raise ManifestError(
            f"{folder}: {len(files)} noise recordings; silence in three splits needs three or more"
        )
    clips = []
    for number, path in enumerate(files):
        split = ("test", "validation")[number] if number < 2 else "train"
        for second in range(int(soundfile.info(path).duration)):
            name = f"{_NOISE}/{path.stem}_{second}"
            clips.append(
                LabelledClip(
                    name,
                    path,
                    (SILENCE,),
                    str(path),
                    path.stem,
                    split,
                    start_s=float(second),
                    end_s=second + 1.0,
                )
            )
    return tuple(clips)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8")).hexdigest()


DATASET = SpeechCommands
