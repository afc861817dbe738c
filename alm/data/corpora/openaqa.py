"""OpenAQA, the data of LTU (Gong et al. 2024), and other files of its form: one JSON list, or several in a folder.

Entries are `{"instruction", "input", "audio_id", "dataset", "task", "output"}`; `audio_id` is a path on the
authors' machine, of which the file name and the folders next to it are used. Each file becomes a manifest.
"""

from __future__ import annotations

from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, object_rows


class OpenAqa(Corpus):
    """OpenAQA; what was said in the recording (`input`) follows the instruction, as in LTU-AS."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        paths = [self.path] if self.path.is_file() else sorted(self.path.rglob("*.json"))
        if not paths:
            raise ManifestError(f"{self.root}: no JSON file; expected {self.layout()}")
        for path in paths:
            for number, row in enumerate(object_rows(path, ("instruction", "audio_id", "output"))):
                name, said = row.text("audio_id"), row.get("input")
                yield Entry(
                    id=f"{number:07d}",
                    audio=(audio.clip(name),),
                    where=row.where,
                    split=path.stem,
                    question=row.text("instruction") + (f"\n{said}" if said else ""),
                    answer=row.text("output"),
                    kind=row.get("task") or "qa",
                    manifest={
                        "id": f"{path.stem}-{number:07d}",
                        "clip": Path(name).stem,
                        "dataset": row.get("dataset"),
                    },
                )


CORPUS = OpenAqa
