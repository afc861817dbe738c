"""Label tables for the `labels` encoder: what is in a clip, under a hash of the clip's samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import write_text_atomic
from alm.data.scenes.events import read_labels
from encoders.audio import load_audio
from encoders.zoo.labels import Events, clip_key


def write_label_table(
    source: Path, out: Path, sample_rate: int, advance: Callable[[], None] = lambda: None
) -> int:
    """Hash every clip of a labelled data set, at the rate the encoder will get it in.

    Args:
        source: `scenes.jsonl` as `alm data compose` writes it (sounds with their times), or a label table in
            ESC-50's format (one label for a whole recording).
        out: The JSON file to write, for the encoder's `table`.
        sample_rate: The model's rate in Hz.
        advance: Called after each clip.

    Returns:
        The number of clips.

    Raises:
        ManifestError: The source cannot be read, or the same sound has two different labels.
        AudioError: A clip cannot be read.
    """
    clips: dict[str, Events] = {}
    for path, events, where in labelled_clips(source):
        key = clip_key(load_audio(path, sample_rate))
        if clips.setdefault(key, events) != events:
            raise ManifestError(f"{where}: {path} sounds like an earlier clip with other labels; remove one")
        advance()
    write_text_atomic(out, json.dumps({"sample_rate": sample_rate, "clips": clips}) + "\n")
    return len(clips)


def labelled_clips(source: Path) -> Iterator[tuple[Path, Events, str]]:
    """Every clip of a labelled data set: its file, what is in it, and where that is written.

    Raises:
        ManifestError: The source cannot be read.
    """
    return _scenes(source) if source.suffix == ".jsonl" else _recordings(source)


def _scenes(source: Path) -> Iterator[tuple[Path, Events, str]]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{source}: cannot be read ({error}); expected scenes.jsonl") from error
    for number, line in enumerate(lines, start=1):
        try:
            scene = json.loads(line)
            events: Events = [
                (event["onset_s"], event["onset_s"] + event["duration_s"], event["kind"])
                for event in scene["events"]
            ]
            path = source.parent / "audio" / f"{scene['id']}.wav"
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{source}:{number}: is no scene ({error!r}); expected a line of alm data compose's scenes.jsonl"
            ) from error
        yield path, events, f"{source}:{number}"


def _recordings(source: Path) -> Iterator[tuple[Path, Events, str]]:
    for clip in read_labels(source):
        yield clip.path, [(0.0, None, clip.kind)], clip.where
