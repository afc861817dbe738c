"""Any manifest as a benchmark: captions, short answers and multiple choice, as its records say."""

from pathlib import Path

from alm.data.manifest import read_manifest
from alm.data.records import Record
from eval.benchmarks._base import Benchmark


def _read(path: Path, split: str) -> list[Record]:
    return read_manifest(path)


BENCHMARK = Benchmark(
    reader=_read,
    prompt="{question}",
    metrics=("bleu_4", "rouge_l", "cider_d", "qa"),
    citation="This toolkit's manifest format, alm/data/manifest.py.",
    splits=("all",),
)
