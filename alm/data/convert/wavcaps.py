"""WavCaps (Mei et al. 2023): `json_files/` with one JSON per source, audio unpacked to `SOURCE` or `SOURCE_flac`.

Each JSON is `{"data": [{"id", "caption", ...}, ...]}`. Ids are unique within a source only. Each source becomes a
manifest of its own. WavCaps overlaps with the test clips of AudioSet and Clotho; published exclusion lists name them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.convert import AudioFiles, Item, read_json, tables

SOURCES = {
    "as_final.json": "AudioSet_SL",
    "bbc_final.json": "BBC_Sound_Effects",
    "fsd_final.json": "FreeSound",
    "sb_final.json": "SoundBible",
}


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """One captioning record per clip."""
    for path in tables(root, tuple(SOURCES), "WavCaps"):
        if path.name not in SOURCES:
            raise ManifestError(f"{path}: not a WavCaps table; expected {', '.join(SOURCES)}")
        source = SOURCES[path.name]
        content = read_json(path)
        entries = content.get("data") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ManifestError(f"{path}: no list under 'data'; expected a WavCaps table")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not {"id", "caption"} <= set(entry):
                raise ManifestError(f"{path}: data[{number}] has no 'id' and 'caption'")
            stem = str(entry["id"]).removesuffix(".wav")  # AudioSet's ids have an ending, the files are flac
            values = {
                "id": f"wavcaps-{source}-{stem}",
                "captions": [entry["caption"].strip()],
                "clip": f"wavcaps/{source}/{stem}",
            }
            yield Item(source.lower(), (f"{stem}.flac",), values, (source, f"{source}_flac"))
