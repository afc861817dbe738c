"""AIR-Bench (Yang et al. 2024), chat: `Chat_meta.json`, a folder `<task_name>_<dataset_name>` per task."""

from __future__ import annotations

from pathlib import PurePosixPath

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, in_its_folder, object_rows

_FIELDS = ("path", "question", "answer_gt", "task_name", "dataset_name", "uniq_id", "meta_info")
_KINDS = ("speech_and_sound", "speech_and_music", "speech", "music", "sound")
"""Kinds of question, by the start of the task's name."""


class AirBenchChat(Corpus):
    """AIR-Bench chat; open questions, with a description of each recording for the judge."""

    splits = ("chat",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in object_rows(self.table("Chat_meta.json"), _FIELDS):
            task = row.text("task_name")
            path = PurePosixPath(f"{task}_{row.text('dataset_name')}", row.text("path"))
            yield Entry(
                id=row.text("uniq_id"),
                audio=(in_its_folder(audio, str(path)),),
                where=row.where,
                split="chat",
                question=row.text("question"),
                answer=row.text("answer_gt"),
                kind=next((kind for kind in _KINDS if task.startswith(kind)), task),
                meta={**row.values, "description": row.text("meta_info")},
            )


CORPUS = AirBenchChat
