"""Free Spoken Digit Dataset: `<digit>_<speaker>_<index>.wav`; a speaker is a fold, so tests hold one out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Clip, Corpus, Entries, Entry

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)")


@dataclass(frozen=True)
class Fsdd(Corpus):
    """Options.

    Attributes:
        root: The repository's folder.
        audio: The folder of recordings below it.
    """

    audio: str = "recordings"
    trainable = True

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        folder = self.path / self.audio
        paths = sorted(folder.glob("*.wav"))
        if not paths:
            raise ManifestError(
                f"{folder}: no .wav files; expected digit_speaker_index.wav there (see audio)"
            )
        for path in paths:
            match = _NAME.fullmatch(path.stem)
            if match is None:
                raise ManifestError(
                    f"{path}: expected a name like 7_jackson_32.wav; rename or remove the file"
                )
            clip = Clip(path.name, path)
            labels = (match["digit"],)
            yield Entry(path.name, (clip,), str(path), labels=labels, group=path.stem, fold=match["speaker"])


CORPUS = Fsdd
