"""VocalSound (Gong et al. 2022): `datafiles/{tr,val,te}.json`, `class_labels_indices_vs.csv`, `audio_16k/`.

The JSON files hold `{"data": [{"wav": path, "labels": mid}]}` with absolute paths of the machine they were made
on; only the file name counts. Names are `<speaker>_<collection>_<class>.wav`; the splits keep speakers apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from alm.common.errors import ManifestError
from train.datasets._base import (
    DatasetReader,
    LabelledClip,
    LabelledData,
    check_classes,
    checked,
    folder_of,
    read_rows,
)
from train.datasets._json import read_entries

_SPLITS = {"tr": "train", "val": "validation", "te": "test"}


@dataclass(frozen=True)
class VocalSound(DatasetReader):
    """Options.

    Attributes:
        root: The folder of the published archive.
        audio: Name of the audio folder: audio_16k or audio_44k.
    """

    root: str
    audio: str = "audio_16k"

    def read(self) -> LabelledData:
        """See the base class."""
        layout = "expected class_labels_indices_vs.csv, datafiles/ and audio_16k/ of the published archive"
        vocabulary = folder_of(self.root, "class_labels_indices_vs.csv", what=layout)
        audio = folder_of(self.root, self.audio, what=layout)
        rows = read_rows(vocabulary, ("index", "mid", "display_name"))
        names = {row["mid"]: row["display_name"] for _, row in rows}
        clips = []
        for stem, split in _SPLITS.items():
            table = folder_of(self.root, "datafiles", f"{stem}.json", what=layout)
            for where, entry in read_entries(table, "data", ("wav", "labels")):
                check_classes([entry["labels"]], set(names), where)
                name = PurePosixPath(entry["wav"]).name
                if "_" not in name:
                    raise ManifestError(
                        f"{where}: '{name}' does not start with a speaker; expected f0003_0_cough.wav"
                    )
                clips.append(
                    LabelledClip(
                        id=name,
                        path=audio / name,
                        labels=(names[entry["labels"]],),
                        where=where,
                        group=name.split("_")[0],
                        split=split,
                    )
                )
        there, notes = checked(clips)
        return LabelledData(tuple(names.values()), there, notes=notes)


DATASET = VocalSound
