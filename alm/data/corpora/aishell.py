"""AISHELL-1 (Bu et al. 2017): `aishell_transcript_v0.8.txt`, and `wav/{train,dev,test}/SPEAKER/`.

A line is an utterance and its words, separated by spaces, which are removed: Chinese is written without them. Some
lines have no recording, as published.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, is_file, named_lines, transcribed

_SPEAKER = slice(6, 11)  # in BAC009S0002W0122


class Aishell(Corpus):
    """AISHELL-1; a request to transcribe each utterance."""

    splits = ("train", "dev", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in named_lines(self.table("aishell_transcript_v0.8.txt")):
            name = row.text("id")
            clip = audio.clip(
                f"{name[_SPEAKER]}/{name}.wav", inside=tuple(f"wav/{part}" for part in self.splits)
            )
            part = clip.path.parts[-3] if is_file(clip.path) else None
            if split in (None, part):
                yield transcribed(row, clip, row.text("text").replace(" ", ""), part, name[_SPEAKER])


CORPUS = Aishell
