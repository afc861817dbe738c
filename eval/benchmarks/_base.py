"""The record that defines a benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alm.common.errors import ConfigError
from alm.data.records import Record
from eval.scoring.correctness import Correctness, is_correct

Reader = Callable[[Any, str], list[Record]]
"""Reads a split of the data at a path (or of a `DataSource`), without prompts; recordings are checked later."""

CAPTION_METRICS = (
    "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d", "meteor", "spice", "spider", "spider_fl",
    "sbert_sim", "fense",
)  # fmt: skip
"""The metrics that captioning papers report; those that need Java or a model are reported as absent without it."""

OURS = "ours"
"""Name of a benchmark's own prompt."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: the source of its questions, their prompt, and how answers are parsed and scored.

    Attributes:
        reader: Reads the data at a path into records whose questions have no prompt yet.
        prompt: Template of the user turn; `{question}` is replaced by the question with its choices as lettered lines,
            `{stem}` by the question alone, `{choices}` by its choices as a list in brackets.
        metrics: Names of metrics or of their parts, see `eval.metrics`. `qa` is the accuracy per kind and overall,
            `map` the mean average precision of ranked choices, `label_embedding` the accuracy of answers matched with
            labels by text embedding.
        citation: Where the benchmark is described.
        name: Registry key; set by `load_benchmark` from the name of the file.
        prompts: Further prompts by name, for example one of a paper; `ours` is `prompt`.
        prompt_version: Must be changed whenever a new prompt or reader changes the questions.
        is_right: Parses an answer and decides whether it is right (`eval.scoring.correctness`).
        max_new_tokens: Length limit of an answer in tokens, unless the config sets another.
        splits: Names of its splits, the default first.
        groups: Keys of the records' `meta` by which scores are broken down.
        takes_sources: Whether the reader takes a `DataSource` in place of a path.
        official: Name of the published scoring rule to show next to ours; empty for none.
    """

    reader: Reader
    prompt: str
    metrics: tuple[str, ...]
    citation: str
    name: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt_version: str = "1"
    is_right: Correctness = is_correct
    max_new_tokens: int = 64
    splits: tuple[str, ...] = ("test",)
    groups: tuple[str, ...] = ()
    takes_sources: bool = False
    official: str = ""

    def prompt_named(self, name: str) -> str:
        """The prompt of a name.

        Raises:
            ConfigError: No prompt has that name; names the prompts.
        """
        known = {OURS: self.prompt, **self.prompts}
        if name not in known:
            raise ConfigError(f"{self.name} has no prompt {name!r}; expected one of {', '.join(known)}")
        return known[name]

    def version_named(self, name: str) -> str:
        """The prompt's version for keys and scores; that of `ours` is as it was before prompts had names."""
        return self.prompt_version if name == OURS else f"{self.prompt_version}-{name}"
