"""What a benchmark is, and the settings of a run of one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alm.errors import ConfigError
from alm.manifest import Record
from eval.predictions import CONTROLS


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its questions come from, how they are asked, read and scored.

    Attributes:
        name: Registry key; the name of its file.
        reader: Reads the data at a path into records, with the prompt applied.
        prompt: How a question is put to the model; `{question}` is the question with its choices.
        prompt_version: Changed whenever the prompt or the reader changes what a model is asked.
        metrics: The scores reported, as named in `eval.scoring`; `qa` stands for accuracy per kind and overall.
        parser: How answers are read: `choice` (tiered parser), `normalised` (short answers), or both.
        citation: Where the benchmark is described.
    """

    name: str
    reader: Callable[[Path], list[Record]]
    prompt: str
    prompt_version: str
    metrics: tuple[str, ...]
    parser: str
    citation: str


@dataclass(frozen=True)
class EvalSettings:
    """One evaluation; `configs/eval/<name>.yaml` holds the values for a benchmark.

    Attributes:
        benchmark: Which one.
        data: Path of its data; for `manifest` a JSONL file.
        batch_size: Questions per batch.
        max_new_tokens: Longest answer, in tokens.
        limit: Only the first so many records; None is all.
        controls: Which of `none`, `no_audio`, `other_clip` to run.
        seed: Seed of the choice of other clips.
    """

    benchmark: str = "manifest"
    data: str = ""
    batch_size: int = 16
    max_new_tokens: int = 64
    limit: int | None = None
    controls: tuple[str, ...] = CONTROLS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; expected at least 1, or null for all records")
        for control in self.controls:
            if control not in CONTROLS:
                raise ConfigError(f"controls holds {control!r}; expected some of {', '.join(CONTROLS)}")
        if "none" not in self.controls:
            raise ConfigError(f"controls is {list(self.controls)}; it must hold 'none', the model as it is")
