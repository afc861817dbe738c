"""ClothoAQA (Lipping et al. 2022): `clotho_aqa_{train,val,test}.csv`, audio in `audio_files/`.

Columns `file_name, QuestionText, answer, confidence`; every question was answered by three people. In training each
answer is a record; in val and test a question is one record with the answer most gave (the first of several).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alm.data.convert import AudioFiles, Item, read_table, tables


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """Question-answer records."""
    for path in tables(root, [f"clotho_aqa_{split}.csv" for split in ("train", "val", "test")], "ClothoAQA"):
        split = path.stem.removeprefix("clotho_aqa_")
        questions: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for _, row in read_table(path, ("file_name", "QuestionText", "answer")):
            key = (row["file_name"].strip(), row["QuestionText"].strip())
            questions.setdefault(key, []).append(
                (row["answer"].strip(), (row.get("confidence") or "").strip())
            )
        for number, ((name, question), replies) in enumerate(questions.items()):
            answers = [answer for answer, _ in replies]
            said = replies if split == "train" else [(Counter(answers).most_common(1)[0][0], "")]
            for place, (answer, confidence) in enumerate(said):
                values: dict[str, Any] = {
                    "id": f"clothoaqa-{split}-{number:05d}" + (f"-{place}" if split == "train" else ""),
                    "question": question,
                    "answer": answer,
                    "kind": "yes_no" if answer.lower() in ("yes", "no") else "open",
                    "clip": f"clotho/{name}",
                }
                values |= {"confidence": confidence} if split == "train" else {"answers": answers}
                yield Item(split, (name,), values)
