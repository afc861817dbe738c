"""Temporal grounding: which sounds a recording has, with their start and end times.

`data` is the `scenes.jsonl` of `alm data compose`, which holds the times of all sounds, or a file of the same form:
lines with `id`, `duration_s` and `events` (`kind`, `onset_s`, `duration_s`), recordings in `audio/ID.wav` beside it. An
answer lists events with two times each; `eval/parsing/events.py` documents the accepted forms.
"""

from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import read_text
from alm.common.json_text import parse_json
from alm.data.labels import labelled_clips
from alm.data.records import AUDIO_MARKER, AudioRef, Record
from eval.benchmarks._base import Benchmark
from eval.errors import EvaluationError
from eval.parsing.events import Event, events_text, parse_events, plain_label
from eval.scoring.correctness import answers_of

_QUESTION = (
    "Which sounds does this recording have, and when? List every sound with its onset and offset in seconds, for "
    'example "bell: 0.50 - 1.75", separated by semicolons. The sounds are: {kinds}.'
)


def _read(root: Path, split: str) -> list[Record]:
    try:
        scenes = [parse_json(line, str(root)) for line in read_text(root, "scenes.jsonl").splitlines()]
        clips = list(labelled_clips(root))
    except ManifestError as error:
        raise EvaluationError(str(error)) from error
    kinds = ", ".join(sorted({plain_label(kind) for _, events, _ in clips for _, _, kind in events}))
    records = []
    for scene, (path, events, where) in zip(scenes, clips, strict=True):
        if scene.get("split", split) != split:
            continue
        length_s = float(scene["duration_s"])
        listed = [
            Event(plain_label(kind), onset, length_s if offset is None else offset)
            for onset, offset, kind in events
        ]
        question, answer = _QUESTION.format(kinds=kinds), events_text(listed)
        records.append(
            Record(
                id=path.stem,
                audio=(AudioRef(path),),
                messages=(
                    {"role": "user", "content": AUDIO_MARKER + question},
                    {"role": "assistant", "content": answer},
                ),
                kind="sound_events",
                question=question,
                answer=answer,
                clip=path.stem,
                meta={"duration_s": length_s},
                source=where,
            )
        )
    if not records:
        raise EvaluationError(f"{root}: has no scene of the split {split!r}")
    return records


def _same_events(record: Record, answer: str) -> bool:
    """Whether an answer lists the sounds of a recording, each as often as it is there, whatever the times."""
    said, wanted = (
        sorted(one.label for one in parse_events(text)) for text in (answer, answers_of(record)[0])
    )
    return said == wanted


BENCHMARK = Benchmark(
    reader=_read,
    prompt="{question}",
    metrics=("segment_f1", "event_f1", "psds", "qa"),
    is_right=_same_events,
    max_new_tokens=128,
    citation="Mesaros et al. 2016, Metrics for Polyphonic Sound Event Detection; Bilen et al. 2020 (PSDS).",
    splits=("test", "validation", "train"),
)
