"""VocalSound (Gong et al. 2022): `datafiles/{tr,val,te}.json`, `class_labels_indices_vs.csv`, `audio_16k/`.

The JSON files hold `{"data": [{"wav": path, "labels": mid}]}` with absolute paths of the machine they were made
on; only the file name counts. Names are `<speaker>_<collection>_<class>.wav`; the splits keep speakers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, check_classes, csv_rows, object_rows

_TABLES = {"train": "tr.json", "validation": "val.json", "test": "te.json"}
_AUDIO = "audio_16k"


@dataclass(frozen=True)
class VocalSound(Corpus):
    """Options.

    Attributes:
        root: The folder of the published archive.
        audio: Name of the audio folder: audio_16k or audio_44k.
    """

    audio: str = _AUDIO
    splits = tuple(_TABLES)
    trainable = True

    def class_names(self, entries: Sequence[Entry] = ()) -> tuple[str, ...]:
        """The display names of the vocabulary, in its order."""
        return tuple(self._names().values())

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        names = self._names()
        # Without the default folder, the only version that was unpacked is used.
        inside = () if self.audio == _AUDIO and not audio.has_folder(_AUDIO) else (self.audio,)
        for part in self.chosen(split):
            for row in object_rows(self.table(_TABLES[part]), ("wav", "labels")):
                label, name = row.text("labels"), PurePosixPath(row.text("wav")).name
                check_classes([label], set(names), row.where)
                clip = audio.clip(f"{self.audio}/{name}", inside=inside)
                speaker = name.split("_")[0]
                yield Entry(name, (clip,), row.where, part, labels=(names[label],), group=speaker)

    def _names(self) -> dict[str, str]:
        rows = csv_rows(self.table("class_labels_indices_vs.csv"), ("mid", "display_name"))
        return {row.text("mid"): row.text("display_name") for row in rows}


CORPUS = VocalSound
