"""The records of a benchmark with its prompt, checked as a whole before the first question is asked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from alm.common.errors import AudioError, ConfigError
from alm.common.storage.remote import path_exists
from alm.data.readers.base import as_source, parse_source
from alm.data.records import AUDIO_MARKER, AudioRef, Record, format_choices, note_id
from eval.benchmarks._base import OURS, Benchmark
from eval.errors import EvaluationError
from eval.waveforms import Waveforms

# Hz; whether a recording can be decoded does not depend on it. At the rate of nearly all models the run can reuse the
# decoded recordings.
_ANY_RATE = 16000
_NAMED = 5  # records that a note names; the scores list all


class BenchmarkData(NamedTuple):
    """The questions of a benchmark.

    Attributes:
        records: The records, with the benchmark's prompt.
        notes: Remarks that belong beside the scores.
        left_out: Ids of records that were dropped, and why.
    """

    records: list[Record]
    notes: list[str]
    left_out: dict[str, str]


def read_records(
    benchmark: Benchmark,
    data: str | Path | Mapping[str, Any],
    split: str = "",
    missing_audio: str = "error",
    check_audio: bool = True,
    waveforms: Waveforms | None = None,
    prompt: str = OURS,
) -> BenchmarkData:
    """Read the records of a benchmark.

    Args:
        benchmark: The benchmark.
        data: Its data; for a benchmark that takes sources also their settings (`alm.data.readers.base.DataSource`).
        split: One of its splits; empty is the default.
        missing_audio: `error`, or `leave_out` to drop records whose recordings are missing or cannot be read.
        check_audio: Whether recordings are needed; scoring a predictions file needs none.
        waveforms: Filled with recordings that had to be decoded.
        prompt: Name of the prompt.

    Returns:
        The records, with notes for the scores.

    Raises:
        ConfigError: No data, or an unknown split or prompt.
        EvaluationError: The data is not in the layout, two records have one id, or recordings are missing or cannot be
            read; says how many.
    """
    if not data:
        raise ConfigError("data is empty; say where the benchmark's data is, for example --data FOLDER")
    if split and split not in benchmark.splits:
        raise ConfigError(
            f"{benchmark.name} has no split {split!r}; expected one of {', '.join(benchmark.splits)}"
        )
    text = benchmark.prompt_named(prompt)
    source = as_source(parse_source(data, "data"))
    if source.given() and not benchmark.takes_sources:
        raise ConfigError(f"data: {benchmark.name} reads its published layout; give a path, without settings")
    if not path_exists(source.path) and (not benchmark.takes_sources or source.format is None):
        raise EvaluationError(
            f"{source.path}: no such file or folder; point --data at the data of {benchmark.name}"
        )
    read = benchmark.reader(
        source if benchmark.takes_sources else Path(source.path), split or benchmark.splits[0]
    )
    records = [with_prompt(record, text) for record in read]
    _check_ids(records)
    if not check_audio:
        return BenchmarkData(records, [], {})
    # Where records may be dropped, each clip is decoded once here; otherwise only its header is read.
    decoded = None if missing_audio == "error" else waveforms or Waveforms()
    of_clip = {
        ref: _audio_problem(ref, decoded)
        for ref in dict.fromkeys(ref for one in records for ref in one.audio)
    }
    problems = [next(filter(None, (of_clip[ref] for ref in record.audio)), "") for record in records]
    bad = [(record, problem) for record, problem in zip(records, problems, strict=True) if problem]
    if not bad:
        return BenchmarkData(records, [], {})
    record, problem = bad[0]
    if len(bad) == len(records):
        raise EvaluationError(
            f"{source.path}: none of the {len(records)} records of {benchmark.name} has its recording; the first: "
            f"{problem}; put the audio there (published question files come without it)"
        )
    if missing_audio == "error":
        raise EvaluationError(
            f"{record.source}: {problem} ({len(bad)} of {len(records)} records lack their recording); complete "
            "the data, or set missing_audio=leave_out and compare only scores with the same ids_sha256"
        )
    left_out = {one.id: found for one, found in bad}
    named = ", ".join(list(left_out)[:_NAMED]) + (", …" if len(bad) > _NAMED else "")
    note = (
        f"{len(bad)} of {len(records)} records were dropped because their recordings are missing or cannot be read "
        f"({named}); compare only with scores of the same ids_sha256."
    )
    return BenchmarkData([one for one in records if one.id not in left_out], [note], left_out)


def with_prompt(record: Record, prompt: str) -> Record:
    """A record whose question is worded by a benchmark's prompt.

    Args:
        record: The record; its question is the last user turn.
        prompt: The prompt; see `Benchmark.prompt`.
    """
    if prompt == "{question}":
        return record
    parts = {
        "{question}": record.question,
        "{stem}": record.question.removesuffix(format_choices("", record.choices)),
        "{choices}": str(list(record.choices)),
    }
    text = re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], prompt)
    asked = {"role": "user", "content": AUDIO_MARKER * len(record.audio) + text}
    return replace(record, messages=(asked, *record.messages[1:]), question=text)


def _audio_problem(ref: AudioRef, decoded: Waveforms | None) -> str:
    """Why a clip cannot be used; empty if it can. Without `decoded` only its header is read."""
    if not ref.exists():
        return f"no recording {ref.path}"
    try:
        if decoded is None:
            ref.check()
        else:
            decoded.load(ref, _ANY_RATE)
    except AudioError as error:
        return str(error)
    return ""


def _check_ids(records: Sequence[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        note_id(record.id, record.source, seen, EvaluationError)
