"""Free Spoken Digit Dataset: `<digit>_<speaker>_<index>.wav`; a speaker is a fold, so tests hold one out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alm.common.errors import ManifestError
from train.datasets._base import DatasetReader, LabelledClip, LabelledData, checked, folder_of

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)")


@dataclass(frozen=True)
class Fsdd(DatasetReader):
    """Options.

    Attributes:
        root: The repository's folder.
        audio: The folder of recordings below it.
    """

    root: str
    audio: str = "recordings"

    def read(self) -> LabelledData:
        """See the base class."""
        folder = folder_of(
            self.root, self.audio, what="expected digit_speaker_index.wav files there (see audio)"
        )
        clips = []
        for path in sorted(folder.glob("*.wav")):
            match = _NAME.fullmatch(path.stem)
            if match is None:
                raise ManifestError(
                    f"{path}: expected a name like 7_jackson_32.wav; rename or remove the file"
                )
            clips.append(
                LabelledClip(
                    id=path.name,
                    path=path,
                    labels=(match["digit"],),
                    where=str(path),
                    group=path.stem,
                    fold=match["speaker"],
                )
            )
        if not clips:
            raise ManifestError(f"{folder}: no .wav files; expected digit_speaker_index.wav")
        there, notes = checked(clips)
        return LabelledData(tuple(sorted({clip.labels[0] for clip in clips})), there, notes=notes)


DATASET = Fsdd
