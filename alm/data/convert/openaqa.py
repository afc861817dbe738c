"""OpenAQA, the data of LTU (Gong et al. 2024), and other files of its form: one JSON list, or several in a folder.

Entries are `{"instruction", "input", "audio_id", "dataset", "task", "output"}`; `audio_id` is a path on the
authors' machine, of which the file name and the folders next to it are used. Each file becomes a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.convert import AudioFiles, Item, read_json

_KEYS = ("instruction", "audio_id", "output")


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """Question-answer records; what was said in the recording (`input`) follows the instruction, as in LTU-AS."""
    paths = [root] if root.is_file() else sorted(root.rglob("*.json"))
    if not paths:
        raise ManifestError(f"{root}: no JSON file; expected OpenAQA as published")
    for path in paths:
        entries = read_json(path)
        if not isinstance(entries, list):
            raise ManifestError(f"{path}: expected a JSON list of {', '.join(_KEYS)}")
        for number, entry in enumerate(entries):
            lacking = [
                key for key in _KEYS if not isinstance(entry, dict) or not str(entry.get(key, "")).strip()
            ]
            if lacking:
                raise ManifestError(f"{path}: entry {number} has no {', '.join(lacking)}; leave it out")
            audio = str(entry["audio_id"])
            said = str(entry.get("input") or "").strip()
            values = {
                "id": f"{path.stem}-{number:07d}",
                "question": f"{entry['instruction'].strip()}\n{said}"
                if said
                else entry["instruction"].strip(),
                "answer": str(entry["output"]).strip(),
                "kind": str(entry.get("task") or "qa").strip(),
                "clip": Path(audio).stem,
                "dataset": str(entry.get("dataset") or ""),
            }
            yield Item(path.stem, (audio,), values)
