"""Reading a benchmark's data, checked as a whole before anything is asked."""

from collections.abc import Sequence
from pathlib import Path

from alm.common.errors import ConfigError
from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.errors import EvaluationError


def read_records(
    benchmark: Benchmark,
    data: str | Path,
    split: str = "",
    missing_audio: str = "error",
    check_audio: bool = True,
) -> tuple[list[Record], list[str]]:
    """Records of a benchmark, and what has to be said about them beside the scores.

    Args:
        benchmark: Which one.
        data: Where its data is.
        split: One of its splits; empty is the default.
        missing_audio: `error`, or `leave_out`.
        check_audio: Whether recordings must be there; scoring a predictions file needs none.

    Raises:
        ConfigError: No data, or an unknown split.
        EvaluationError: The data is not in the layout, an id is there twice, or recordings are missing.
    """
    if not data:
        raise ConfigError("data is empty; say where the benchmark's data is, for example --data FOLDER")
    if split and split not in benchmark.splits:
        raise ConfigError(
            f"{benchmark.name} has no split {split!r}; expected one of {', '.join(benchmark.splits)}"
        )
    if not Path(data).exists():
        raise EvaluationError(f"{data}: no such file or folder; point --data at the data of {benchmark.name}")
    records = benchmark.reader(Path(data), split or benchmark.splits[0])
    _check_ids(records)
    if not check_audio:
        return records, []
    gone = [record for record in records if not all(ref.exists() for ref in record.audio)]
    if not gone:
        return records, []
    first = f"{gone[0].source}: no recording {gone[0].audio[0].path}"
    if len(gone) == len(records):
        raise EvaluationError(
            f"{data}: none of the {len(records)} recordings of {benchmark.name} is there, the first would be "
            f"{gone[0].audio[0].path}; put the audio there (published question files come without it)"
        )
    if missing_audio == "error":
        raise EvaluationError(
            f"{first} ({len(gone)} of {len(records)} records lack theirs); complete the data, or where recordings "
            "cannot be had any more, set missing_audio=leave_out and compare only scores with the same ids_sha256"
        )
    left = {id(record) for record in gone}
    note = (
        f"{len(gone)} of {len(records)} records left out because their recordings are missing; compare only with "
        "scores of the same ids_sha256."
    )
    return [record for record in records if id(record) not in left], [note]


def _check_ids(records: Sequence[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise EvaluationError(
                f"{record.source}: id {record.id!r} is at {seen[record.id]}, too; ids must differ"
            )
        seen[record.id] = record.source
