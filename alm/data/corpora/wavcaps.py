"""WavCaps (Mei et al. 2023): `json_files/` with one JSON per source, audio unpacked to `SOURCE` or `SOURCE_flac`.

Each JSON is `{"data": [{"id", "caption", ...}, ...]}`. Ids are unique within a source only. Each source becomes a
manifest of its own. WavCaps overlaps with the test clips of AudioSet and Clotho; published exclusion lists name them.
"""

from __future__ import annotations

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, object_rows

_SOURCES = {
    "as_final.json": "AudioSet_SL",
    "bbc_final.json": "BBC_Sound_Effects",
    "fsd_final.json": "FreeSound",
    "sb_final.json": "SoundBible",
}


class WavCaps(Corpus):
    """WavCaps; one captioning entry per clip."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for path in self.tables(_SOURCES):
            if path.name not in _SOURCES:
                raise ManifestError(f"{path}: not a WavCaps table; expected {', '.join(_SOURCES)}")
            source = _SOURCES[path.name]
            for row in object_rows(path, ("id", "caption")):
                # Ids of AudioSet end in .wav, although the files are flac.
                stem = row.text("id").removesuffix(".wav")
                yield Entry(
                    id=f"{source}/{stem}",
                    audio=(audio.clip(f"{stem}.flac", inside=(source, f"{source}_flac")),),
                    where=row.where,
                    split=source.lower(),
                    captions=(row.text("caption"),),
                    manifest={"id": f"wavcaps-{source}-{stem}", "clip": f"wavcaps/{source}/{stem}"},
                )


CORPUS = WavCaps
