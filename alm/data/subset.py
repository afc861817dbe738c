"""A share of a manifest's clips, such that a smaller share is part of every larger one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.data.manifest import read_manifest


def write_share(source: Path, out: Path, share: float, seed: int = 0) -> tuple[int, int]:
    """Write the records of a share of the clips; a clip is in with all of its records, in their order.

    Args:
        source: The manifest.
        out: The manifest to write; audio is named by its absolute path.
        share: Above 0, at most 1; at least one clip is taken.
        seed: Decides which clips come first.

    Returns:
        Numbers of clips and records written.

    Raises:
        ConfigError: The share is out of range.
        ManifestError: The manifest cannot be read, or the other not written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: got {share}, expected above 0 and at most 1")
    records = read_manifest(source, audio_only=True)
    clips = sorted(
        {record.clip for record in records},
        key=lambda clip: hashlib.sha256(f"{seed}/{clip}".encode()).digest(),
    )
    taken = set(clips[: max(1, round(share * len(clips)))])
    raw = source.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = []
    for line, record in zip(raw, records, strict=False):  # one record per line; a last newline ends the last
        if record.clip in taken:
            values = json.loads(line)
            given = values["audio"]
            refs = given if isinstance(given, list) else [given]
            placed = [
                {**ref, "path": str(found.path.resolve())}
                if isinstance(ref, dict)
                else str(found.path.resolve())
                for ref, found in zip(refs, record.audio, strict=True)
            ]
            values |= {"audio": placed if isinstance(given, list) else placed[0], "clip": record.clip}
            lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    write_text_atomic(out, "".join(lines))
    return len(taken), len(lines)
