"""LibriSpeech (Panayotov et al. 2015): `SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, and its flac files beside it.

Transcripts are in capitals, as published.
"""

from __future__ import annotations

from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, named_lines, transcribed
from alm.data.download import Archive, Download

_SPLITS = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)  # fmt: skip


_SOURCE = "https://www.openslr.org/resources/12/{}.tar.gz"
_SHA256 = {  # the hashes that torchaudio checks
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}


class LibriSpeech(Corpus):
    """LibriSpeech; a request to transcribe each utterance."""

    splits = _SPLITS
    download = Download(
        licence="CC BY 4.0",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        page="https://www.openslr.org/12/",
        archives=tuple(
            Archive(
                _SOURCE.format(part), sha256, default=part in ("dev-clean", "train-clean-100", "test-clean")
            )
            for part, sha256 in _SHA256.items()
        ),
    )

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
