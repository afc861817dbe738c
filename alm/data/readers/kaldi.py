"""Kaldi data directories: `wav.scp` and `text`, and optionally `segments` and `utt2spk`.

The transcript is the answer to `prompt` (by default a request to transcribe). Commands (`sph2pipe … |`) are refused:
no command in a data file is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError, shown
from alm.common.files import open_regular, read_text, reason
from alm.common.storage.remote import to_path
from alm.data.readers.base import DataSource, Reader, Row, folder_of

PROMPT = "Transcribe the speech."


class KaldiReader(Reader):
    """Recordings or segments of them with their transcripts."""

    takes = ("prompt", "audio")

    def recognises(self, path: Path) -> bool:
        """A folder with `wav.scp`."""
        return (path / "wav.scp").is_file()

    def files(self, source: DataSource) -> list[Path]:
        """The tables that exist."""
        folder = to_path(source.path)
        names = ("wav.scp", "text", "segments", "utt2spk")
        return [folder / name for name in names if name == "wav.scp" or (folder / name).exists()]

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        folder = to_path(source.path)
        base = folder_of(source, folder) if source.audio else Path()
        audio = _recordings(folder)
        texts = _table(folder / "text") if (folder / "text").exists() else None
        speakers = _table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
        for where, utterance, item in _utterances(folder, audio):
            values: dict[str, Any] = {"id": utterance, "audio": item, "clip": utterance}
            if utterance in speakers:
                values["speaker"] = speakers[utterance][1]
            if texts is not None:
                if utterance not in texts:
                    raise ManifestError(f"{where}: no text for {utterance!r} in {folder / 'text'}; add it")
                if not texts[utterance][1]:
                    raise ManifestError(
                        f"{texts[utterance][0]}: the text of {utterance!r} is empty; remove it"
                    )
                values |= {"question": source.prompt or PROMPT, "answer": texts[utterance][1]}
                values["kind"] = "transcription"
            yield Row(where, values, base)
        unknown = next((name for name in texts or {} if name not in _known(folder, audio)), None)
        if unknown is not None:
            raise ManifestError(f"{(texts or {})[unknown][0]}: {unknown!r} has no recording; remove the line")


def _known(folder: Path, audio: dict[str, tuple[str, str]]) -> set[str] | dict[str, tuple[str, str]]:
    return _table(folder / "segments") if (folder / "segments").exists() else audio


def _utterances(folder: Path, audio: dict[str, tuple[str, str]]) -> Iterator[tuple[str, str, Any]]:
    """Where each utterance is listed, its name, and its audio."""
    if not (folder / "segments").exists():
        yield from ((where, name, path) for name, (where, path) in audio.items())
        return
    for name, (where, rest) in _table(folder / "segments").items():
        parts = rest.split()
        try:
            recording, start_s, end_s = parts[0], float(parts[1]), float(parts[2])
        except (ValueError, IndexError) as error:
            raise ManifestError(
                f"{where}: {shown(rest, 80)}; expected a recording, its start and its end in seconds"
            ) from error
        if recording not in audio:
            raise ManifestError(f"{where}: no recording {recording!r} in {folder / 'wav.scp'}")
        item: dict[str, Any] = {"path": audio[recording][1], "start_s": start_s}
        yield where, name, item if end_s < 0 else {**item, "end_s": end_s}  # -1: to the end


def _recordings(folder: Path) -> dict[str, tuple[str, str]]:
    """Place and path of every recording of `wav.scp`."""
    found = _table(folder / "wav.scp")
    for name, (where, path) in found.items():
        if path.endswith("|"):
            raise ManifestError(
                f"{where}: {shown(path, 80)} is a command, and no command is run; run it once, and name its result"
            )
        suffix = path.rpartition(":")[2]
        if not path or (".ark:" in path and suffix.isdigit()):
            raise ManifestError(
                f"{where}: {name!r} has {shown(path, 80)}; expected the path of an audio file"
            )
    return found


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Name to place and rest of the line."""
    found: dict[str, tuple[str, str]] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        name, _, rest = line.strip().partition(" ")
        if "\t" in name:
            name, _, rest = line.strip().partition("\t")
        if not name:
            raise ManifestError(f"{where}: blank line; remove it")
        if name in found:
            raise ManifestError(f"{where}: {name!r} was already used at {found[name][0]}; make names unique")
        found[name] = (where, rest.strip())
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open_regular(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8")
    except UnicodeDecodeError as error:
        read_text(path, "a Kaldi table")  # names the byte
        raise ManifestError(f"{path}: is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({reason(error)}); expected a Kaldi table") from error


READER = KaldiReader()
