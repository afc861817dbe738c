"""What a benchmark is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alm.data.records import Record

Reader = Callable[[Path, str], list[Record]]
"""Reads a split of the data at a path; paths of recordings are checked later, all at once."""

CAPTION_METRICS = (
    "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d", "meteor", "spice", "spider", "spider_fl",
    "sbert_sim", "fense",
)  # fmt: skip
"""What captioning papers report; those that need Java or a model are absent without."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its questions come from, how they are asked, read and scored.

    Attributes:
        name: Registry key; the name of its file.
        reader: Reads the data at a path into records, with the prompt applied.
        prompt: How a question is put to the model; `{question}` is the question with its choices.
        prompt_version: Changed whenever the prompt or the reader changes what a model is asked.
        metrics: The scores reported, as named in `eval.scoring.scores`; `qa` stands for accuracy per kind and overall.
        parser: How answers are read: `choice` (tiered parser), `normalised` (short answers), or both.
        citation: Where the benchmark is described.
        splits: Names of its splits, the default first.
        groups: Keys of the records' `meta` that scores are broken down by.
        official: Name of the published scoring rule in `eval.scoring.official` shown beside ours; empty for none.
    """

    name: str
    reader: Reader
    prompt: str
    prompt_version: str
    metrics: tuple[str, ...]
    parser: str
    citation: str
    splits: tuple[str, ...] = ("test",)
    groups: tuple[str, ...] = ()
    official: str = ""
