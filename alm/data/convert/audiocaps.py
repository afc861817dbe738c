"""AudioCaps (Kim et al. 2019, and 2.0): `train.csv`, `val.csv`, `test.csv`.

Columns `audiocap_id, youtube_id, start_time, caption`; one row per caption, five per clip in val and test. The
audio is not distributed with it, so files are found under any of the names that downloaders give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.data.convert import AudioFiles, Item, read_table, tables

_CLIP_S = 10


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """One captioning record per clip, with all of its captions."""
    for path in tables(root, ("train.csv", "val.csv", "test.csv"), "AudioCaps"):
        clips: dict[tuple[str, str], list[dict[str, str]]] = {}
        for _, row in read_table(path, ("audiocap_id", "youtube_id", "start_time", "caption")):
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
        for (video, start), rows in clips.items():
            values = {
                "id": f"audiocaps-{path.stem}-{video}-{start}",
                "captions": [row["caption"].strip() for row in rows],
                "clip": f"audiocaps/{video}_{start}",
                "audiocap_ids": [row["audiocap_id"] for row in rows],
            }
            yield Item(path.stem, _names(video, start, rows[0]["audiocap_id"]), values)


def _names(video: str, start: str, identity: str) -> tuple[str, ...]:
    """What downloaders call a clip: by video and time, by caption id, by video alone."""
    timed = [f"{video}_{start}"]
    try:
        second = int(float(start))
        timed += [f"{video}_{second}_{second + _CLIP_S}", f"{video}_{second:06d}"]
        timed += [f"{video}_{1000 * second}_{1000 * (second + _CLIP_S)}"]
    except ValueError:
        pass
    return (*timed, *(f"Y{name}" for name in timed), identity, video, f"Y{video}")
