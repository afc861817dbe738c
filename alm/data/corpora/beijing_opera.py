"""Beijing Opera Percussion Instrument dataset: a folder of recordings per instrument."""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Clip, Corpus, Entries, Entry


class BeijingOpera(Corpus):
    """Beijing Opera percussion; the label is the name of the folder."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for path in audio.all():
            name = f"{path.parent.name}/{path.name}"
            yield Entry(name, (Clip(name, path),), str(path), labels=(path.parent.name,), group=name)


CORPUS = BeijingOpera
