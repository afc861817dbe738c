"""AIR-Bench (Yang et al. 2024), foundation: `Foundation_meta.json`, a folder `<task_name>_<dataset_name>` per task."""

from __future__ import annotations

from pathlib import PurePosixPath

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, in_its_folder, object_rows

_FIELDS = ("path", "question", "choice_a", "choice_b", "answer_gt", "task_name", "dataset_name", "uniq_id")


class AirBench(Corpus):
    """AIR-Bench foundation; multiple-choice questions."""

    splits = ("foundation",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in object_rows(self.table("Foundation_meta.json"), _FIELDS):
            path = PurePosixPath(f"{row.text('task_name')}_{row.text('dataset_name')}", row.text("path"))
            # The release names these recordings .wav in its table and keeps them as .flac.
            path = path.with_suffix(".flac") if row.text("task_name") == "Audio_Grounding" else path
            yield Entry(
                id=row.text("uniq_id"),
                audio=(in_its_folder(audio, str(path)),),
                where=row.where,
                split="foundation",
                question=row.text("question"),
                answer=row.text("answer_gt"),
                # Questions have two to four options; the others are null.
                choices=tuple(filter(None, (row.get(f"choice_{letter}") for letter in "abcd"))),
                kind=row.text("task_name"),
                meta=dict(row.values),
            )


CORPUS = AirBench
