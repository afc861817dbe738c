"""Label tables for the `labels` encoder: the labels of each clip, keyed by a hash of the clip's samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import read_text, write_text_atomic
from alm.common.json_text import parse_json
from alm.common.names import check_file_name
from alm.data.scenes.events import read_labels
from encoders.audio import load_audio
from encoders.zoo.labels import Events, clip_key


def write_label_table(
    source: Path, out: Path, sample_rate: int, advance: Callable[[], None] = lambda: None
) -> int:
    """Write the label table: hash every clip of a labelled data set at the sample rate of the model that will use it.

    Args:
        source: `scenes.jsonl` as `alm data compose` writes it (sounds with their times), or a label table in
            ESC-50's format (one label for a whole recording).
        out: The JSON file to write, for the encoder's `table`.
        sample_rate: The model's rate in Hz.
        advance: Called after each clip.

    Returns:
        The number of clips.

    Raises:
        ManifestError: The source cannot be read, or two clips with equal samples have different labels.
        AudioError: A clip cannot be read.
    """
    clips: dict[str, Events] = {}
    for path, events, where in labelled_clips(source):
        key = clip_key(load_audio(path, sample_rate))
        if clips.setdefault(key, events) != events:
            raise ManifestError(
                f"{where}: {path} has the samples of an earlier clip with other labels; remove one"
            )
        advance()
    write_text_atomic(out, json.dumps({"sample_rate": sample_rate, "clips": clips}) + "\n")
    return len(clips)


def labelled_clips(source: Path) -> Iterator[tuple[Path, Events, str]]:
    """Read every clip of a labelled data set: its file, its labels with their times, and `file:line`.

    Raises:
        ManifestError: The source cannot be read.
    """
    return _scenes(source) if source.suffix == ".jsonl" else _recordings(source)


def _scenes(source: Path) -> Iterator[tuple[Path, Events, str]]:
    for number, line in enumerate(read_text(source, "scenes.jsonl").splitlines(), start=1):
        where = f"{source}:{number}"
        try:
            scene = parse_json(line, where)
            events: Events = [
                (event["onset_s"], event["onset_s"] + event["duration_s"], event["kind"])
                for event in scene["events"]
            ]
            name = check_file_name(scene["id"], f"{where}: the id of the scene")
        except (KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"{where}: not a scene ({error!r}); expected a line of scenes.jsonl as alm data compose writes it"
            ) from error
        path = source.parent / "audio" / f"{name}.wav"
        yield path, events, where


def _recordings(source: Path) -> Iterator[tuple[Path, Events, str]]:
    for clip in read_labels(source):
        yield clip.path, [(0.0, None, clip.kind)], clip.where
