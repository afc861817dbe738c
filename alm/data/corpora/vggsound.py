"""VGGSound (Chen et al. 2020): `vggsound.csv` (video, second, label, split; no header), ten-second clips."""

from __future__ import annotations

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows, segment_names

_COLUMNS = ("video", "second", "label", "split")


class VggSound(Corpus):
    """VGGSound; one label per clip."""

    splits = ("train", "test")
    trainable = True

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in csv_rows(self.table("vggsound.csv"), _COLUMNS, header=False, comment="# "):
            part = row.text("split")
            if part not in self.splits:
                raise ManifestError(f"{row.where}: split is '{part}'; expected train or test")
            if split in (None, part):
                video, start_s = row.text("video"), row.seconds("second")
                name = f"{video}_{int(start_s):06d}"
                clip = audio.clip(name, *segment_names(video, start_s, start_s + 10))
                yield Entry(name, (clip,), row.where, part, labels=(row.text("label"),), group=video)


CORPUS = VggSound
