"""Beijing Opera Percussion Instrument dataset: a folder of recordings per instrument."""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles, Clip
from alm.data.corpora.base import Corpus, Entry


class BeijingOpera(Corpus):
    """Beijing Opera percussion; the label is the name of the folder."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        for path in audio.all():
            name = f"{path.parent.name}/{path.name}"
            yield Entry(name, (Clip(name, path),), str(path), labels=(path.parent.name,), group=name)


CORPUS = BeijingOpera
