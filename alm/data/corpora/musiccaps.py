"""MusicCaps (Agostinelli et al. 2023): `musiccaps-public.csv`, a caption of each ten seconds of a video.

The audio is not distributed with it, so files are found under any of the names that downloaders give them.
`is_audioset_eval` says which rows are the test split.
"""

from __future__ import annotations

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows, segment_names

_COLUMNS = ("ytid", "start_s", "end_s", "caption", "aspect_list", "is_audioset_eval")
_SPLITS = {"true": "test", "false": "train"}


class MusicCaps(Corpus):
    """MusicCaps; one captioning entry per clip."""

    splits = ("train", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in csv_rows(self.table("musiccaps-public.csv"), _COLUMNS):
            part = _SPLITS.get(row.text("is_audioset_eval").lower())
            if part is None:
                raise ManifestError(
                    f"{row.where}: is_audioset_eval is {row.text('is_audioset_eval')!r}; expected True or False"
                )
            if split in (None, part):
                video, start_s, end_s = row.text("ytid"), row.seconds("start_s"), row.seconds("end_s")
                yield Entry(
                    id=video,
                    audio=(audio.clip(*segment_names(video, start_s, end_s)),),
                    where=row.where,
                    split=part,
                    captions=(row.text("caption"),),
                    group=video,
                    manifest={"clip": f"musiccaps/{video}", "aspects": row.get("aspect_list")},
                )


CORPUS = MusicCaps
