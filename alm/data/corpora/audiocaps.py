"""AudioCaps (Kim et al. 2019, and 2.0): `train.csv`, `val.csv`, `test.csv`.

Columns `audiocap_id, youtube_id, start_time, caption`; one row per caption, five per clip in val and test. The
audio is not distributed with it, so files are found under any of the names that downloaders give them.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows, grouped, segment_names

_CLIP_S = 10
_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


class AudioCaps(Corpus):
    """AudioCaps; one entry per clip, with all of its captions."""

    splits = ("train", "val", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for path in self.tables(f"{name}.csv" for name in self.chosen(split)):
            rows = csv_rows(path, _COLUMNS)
            clips = grouped(((row.text("youtube_id"), row.text("start_time")), row) for row in rows)
            for (video, start), given in clips.items():
                start_s = given[0].seconds("start_time")
                numbers = [row.text("audiocap_id") for row in given]
                *timed, bare, with_y = segment_names(video, start_s, start_s + _CLIP_S)
                names = [
                    f"{path.stem}/{name}" for name in (f"{video}_{start}", *timed, *numbers, bare, with_y)
                ]
                yield Entry(
                    id=f"{video}_{start}",
                    audio=(audio.clip(*names),),
                    where=given[0].where,
                    split=path.stem,
                    captions=tuple(row.text("caption") for row in given),
                    manifest={
                        "id": f"audiocaps-{path.stem}-{video}-{start}",
                        "clip": f"audiocaps/{video}_{start}",
                        "audiocap_ids": numbers,
                    },
                )


CORPUS = AudioCaps
