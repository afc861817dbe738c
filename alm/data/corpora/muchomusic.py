"""MuChoMusic (Weck et al. 2024): `muchomusic.csv`, and Song Describer (`sdd`) and MusicCaps (`musiccaps`) recordings.

The table lists the right answer first; the options are shuffled by a hash of the question, the same for every model.
"""

from __future__ import annotations

import hashlib

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Clip, Corpus, Entries, Entry, csv_rows, segment_names

_OPTIONS = ("correct_answer", "distractor_1_answer", "distractor_2_answer", "distractor_3_answer")


class MuChoMusic(Corpus):
    """MuChoMusic; multiple-choice questions."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        columns = ("question", "dataset", "dataset_identifier", *_OPTIONS)
        clips: dict[str, dict[str, Clip]] = {}
        for number, row in enumerate(csv_rows(self.table("muchomusic.csv"), columns, keep_spaces=True)):
            name, identity = row.text("dataset"), row.text("dataset_identifier")
            if name not in clips:
                clips[name] = self._recordings(audio, name, row.where)
            clip = identity.removesuffix(".json")
            # A MusicCaps identifier ends with the number of its question.
            clip = clip if name == "sdd" else clip.rpartition("_")[0]
            if clip not in clips[name]:
                raise ManifestError(f"{row.where}: {name} has no recording {clip!r} in its own table")
            options = [str(row.values[key]) for key in _OPTIONS if row.values[key]]
            order = {text: hashlib.sha256(f"{number}:{text}".encode()).digest() for text in options}
            yield Entry(
                id=f"{number}:{identity}",
                audio=(clips[name][clip],),
                where=row.where,
                split="test",
                question=row.text("question"),
                answer=row.text("correct_answer"),
                choices=tuple(text.strip() for text in sorted(options, key=order.__getitem__)),
                kind="reasoning" if (row.get("music_reasoning") or "[]") != "[]" else "knowledge",
                meta=dict(row.values),
            )

    def _recordings(self, audio: AudioFiles, name: str, where: str) -> dict[str, Clip]:
        """Every recording of a data set, by the identifier that the questions use."""
        found = {}
        if name == "sdd":
            for row in csv_rows(self.table("song_describer.csv"), ("track_id", "path")):
                path = f"sdd/audio/{row.text('path')}"
                names: tuple[str, ...] = (path.replace(".mp3", ".2min.mp3"), path)
                found[row.text("track_id")] = audio.clip(*names, inside=("sdd",))
        elif name == "musiccaps":
            for row in csv_rows(self.table("musiccaps-public.csv"), ("ytid", "start_s", "end_s")):
                video, start_s, end_s = row.text("ytid"), row.seconds("start_s"), row.seconds("end_s")
                names = (f"musiccaps/audio/[{video}]-[{int(start_s)}-{int(end_s)}].wav",)
                names += segment_names(video, start_s, end_s)
                found[video] = audio.clip(*names, inside=("musiccaps",))
        else:
            raise ManifestError(f"{where}: the dataset is {name!r}; expected sdd or musiccaps")
        return found


CORPUS = MuChoMusic
