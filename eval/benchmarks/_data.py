"""The records of a benchmark with its prompt, checked as a whole before the first question is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alm.common.errors import AudioError, ConfigError
from alm.data.readers.base import as_source, parse_source
from alm.data.records import AUDIO_MARKER, AudioRef, Record
from eval.benchmarks._base import Benchmark
from eval.errors import EvaluationError

_ANY_RATE = 16000  # Hz; whether a recording can be decoded does not depend on it


def read_records(
    benchmark: Benchmark,
    data: str | Path | Mapping[str, Any],
    split: str = "",
    missing_audio: str = "error",
    check_audio: bool = True,
) -> tuple[list[Record], list[str]]:
    """Read the records of a benchmark.

    Args:
        benchmark: The benchmark.
        data: Its data; for a benchmark that takes sources also their settings (`alm.data.readers.base.DataSource`).
        split: One of its splits; empty is the default.
        missing_audio: `error`, or `leave_out` to drop records whose recordings are missing or cannot be read.
        check_audio: Whether recordings are needed; scoring a predictions file needs none.

    Returns:
        The records, and remarks that belong beside the scores.

    Raises:
        ConfigError: No data, or an unknown split.
        EvaluationError: The data is not in the layout, two records have one id, or recordings are missing or cannot be
            read; says how many.
    """
    if not data:
        raise ConfigError("data is empty; say where the benchmark's data is, for example --data FOLDER")
    if split and split not in benchmark.splits:
        raise ConfigError(
            f"{benchmark.name} has no split {split!r}; expected one of {', '.join(benchmark.splits)}"
        )
    source = as_source(parse_source(data, "data"))
    if source.given() and not benchmark.takes_sources:
        raise ConfigError(f"data: {benchmark.name} reads its published layout; give a path, without settings")
    if not Path(source.path).exists() and (not benchmark.takes_sources or source.format is None):
        raise EvaluationError(
            f"{source.path}: no such file or folder; point --data at the data of {benchmark.name}"
        )
    read = benchmark.reader(
        source if benchmark.takes_sources else Path(source.path), split or benchmark.splits[0]
    )
    records = [with_prompt(record, benchmark.prompt) for record in read]
    _check_ids(records)
    if not check_audio:
        return records, []
    # Where records may be dropped, each clip is decoded once here; otherwise only its header is read.
    decode = missing_audio != "error"
    of_clip = {
        ref: _audio_problem(ref, decode) for ref in dict.fromkeys(ref for one in records for ref in one.audio)
    }
    problems = [next(filter(None, (of_clip[ref] for ref in record.audio)), "") for record in records]
    bad = [(record, problem) for record, problem in zip(records, problems, strict=True) if problem]
    if not bad:
        return records, []
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
    note = (
        f"{len(bad)} of {len(records)} records were dropped because their recordings are missing or cannot be read; "
        "compare only with scores of the same ids_sha256."
    )
    return [record for record, problem in zip(records, problems, strict=True) if not problem], [note]


def with_prompt(record: Record, prompt: str) -> Record:
    """A record whose question is put as a benchmark's prompt says.

    Args:
        record: The record; its question is the last user turn.
        prompt: The prompt; `{question}` is replaced by the question.
    """
    if prompt == "{question}":
        return record
    text = prompt.replace("{question}", record.question)
    asked = {"role": "user", "content": AUDIO_MARKER * len(record.audio) + text}
    return replace(record, messages=(asked, *record.messages[1:]), question=text)


def _audio_problem(ref: AudioRef, decode: bool) -> str:
    """Why a clip cannot be used; empty if it can."""
    if not ref.exists():
        return f"no recording {ref.path}"
    try:
        if decode:
            ref.load(_ANY_RATE)
        else:
            ref.seconds()
    except AudioError as error:
        return str(error)
    return ""


def _check_ids(records: Sequence[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise EvaluationError(
                f"{record.source}: id {record.id!r} is also at {seen[record.id]}; give every record its own id"
            )
        seen[record.id] = record.source
