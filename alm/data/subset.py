"""Subsets of a manifest's clips; a smaller share is contained in every larger one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.files import read_text, write_text_atomic
from alm.common.json_text import parse_json
from alm.data.manifest import read_manifest


def write_share(source: Path, out: Path, share: float, seed: int = 0) -> tuple[int, int]:
    """Write all records of a share of the clips, in the order of the manifest.

    Args:
        source: The manifest.
        out: The manifest to write; audio is named by its absolute path.
        share: Above 0, at most 1; at least one clip is taken.
        seed: Seed of the order in which clips are taken.

    Returns:
        Numbers of clips and records written.

    Raises:
        ConfigError: The share is out of range.
        ManifestError: `source` cannot be read, or `out` cannot be written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: got {share}, expected above 0 and at most 1")
    records = read_manifest(source, audio_only=True)
    clips = sorted(
        {record.clip for record in records},
        key=lambda clip: hashlib.sha256(f"{seed}/{clip}".encode()).digest(),
    )
    taken = set(clips[: max(1, round(share * len(clips)))])
    text = read_text(source, "a JSONL manifest").removeprefix("\ufeff")
    lines = []
    # Not strict: the text after the last line end is empty.
    for line, record in zip(text.split("\n"), records, strict=False):
        if record.clip in taken:
            values = parse_json(line, record.source)
            paths = iter([os.path.realpath(ref.path) for ref in record.audio])
            audio = [
                {**ref, "path": next(paths)} if isinstance(ref, dict) else next(paths)
                for ref in (values["audio"] if isinstance(values["audio"], list) else [values["audio"]])
            ]
            values |= {"audio": audio if isinstance(values["audio"], list) else audio[0], "clip": record.clip}
            values["id"] = record.id  # a generated id would change with the file's name and line
            lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    write_text_atomic(out, "".join(lines))
    return len(taken), len(lines)
