"""LibriSpeech (Panayotov et al. 2015): `SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, and its flac files beside it.

Transcripts are in capitals, as published.
"""

from __future__ import annotations

from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, named_lines, transcribed

_SPLITS = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)  # fmt: skip


class LibriSpeech(Corpus):
    """LibriSpeech; a request to transcribe each utterance."""

    splits = _SPLITS

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        tables = sorted(self.path.rglob("*.trans.txt"))
        if not tables:
            raise ManifestError(f"{self.root}: holds no *.trans.txt; expected {self.layout()}")
        for table in tables:
            part = _split_of(table)
            if split not in (None, part):
                continue
            speaker, chapter = table.parts[-3], table.parts[-2]
            for row in named_lines(table):
                clip = audio.clip(f"{part}/{speaker}/{chapter}/{row.text('id')}.flac", inside=(part,))
                yield transcribed(row, clip, row.text("text"), part, speaker)


def _split_of(table: Path) -> str:
    if len(table.parts) < 4 or table.parts[-4] not in _SPLITS:
        raise ManifestError(f"{table}: lies in no folder of a split; expected one of {', '.join(_SPLITS)}")
    return table.parts[-4]


CORPUS = LibriSpeech
