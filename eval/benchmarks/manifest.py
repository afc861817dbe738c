"""Any records as a benchmark: captions, short answers and multiple choice, in any data format."""

from alm.data.readers.base import DataSource
from alm.data.records import Record
from alm.data.sources import open_source
from eval.benchmarks._base import Benchmark


def _read(source: DataSource, _split: str) -> list[Record]:
    return list(open_source(source))


BENCHMARK = Benchmark(
    reader=_read,
    prompt="{question}",
    metrics=("bleu_4", "rouge_l", "cider_d", "qa"),
    citation="This toolkit's manifest format, alm/data/manifest.py.",
    splits=("all",),
    takes_sources=True,
)
