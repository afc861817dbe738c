"""The `data` section of a stage's config."""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.common.errors import ConfigError
from train.finetune.settings import FoldSettings

SUPERVISED = ("assistant", "all")
ON_BAD = ("stop", "quarantine")


@dataclasses.dataclass(frozen=True)
class MixtureSettings:
    """Shares of the sources of `data.train` in what is heard.

    A source's share is its weight to the power of one over the temperature. An epoch has as many samples as there are
    records; every record of a source is used before any of them is repeated, also across epochs.

    Attributes:
        weights: One per source; none: the number of its records.
        temperature: 1 follows the weights, more evens them out.
    """

    weights: tuple[float, ...] = ()
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if any(weight <= 0 for weight in self.weights) or self.temperature <= 0:
            raise ConfigError(
                f"data.mixture: got weights={list(self.weights)}, temperature={self.temperature}; expected more than 0"
            )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What a stage trains on.

    Attributes:
        train: Manifests (JSONL) and shard directories. Pretraining only uses their audio (records may hold nothing
            else) and also takes label tables (CSV with ESC-50's columns) and folders, of which it hears every audio
            file. Label tables when fine-tuning.
        validation: Manifests scored after training, with the right and with another clip's audio. When
            fine-tuning the tables that choose the epoch; none takes a share of the training clips.
        test: Label tables that fine-tuning is scored on.
        dataset: A corpus of alm/data/corpora to fine-tune on, in place of tables.
        dataset_options: Its options, `root` among them.
        folds: Which folds fine-tuning holds out.
        workers: Loader processes.
        cache_features: Encode every clip once with the frozen encoder and keep the tokens.
        feature_folder: Keep them there for all runs with the same encoder, not in memory alone. Runs may share it at
            the same time.
        cache_limit_gb: Most that a run's features may take, and that is kept in the folder: a run that needs more is
            an error, of a fuller folder those unused for longest are removed.
        max_length: Longest sample in tokens; a longer one is an error naming it.
        on_bad: What an unreadable, truncated or (unless `stop`) wholly silent recording does: `stop` the run, or
            `quarantine`: it is written to `quarantine.jsonl` and the next sample takes its place (pretrain,
            align, instruct). Validation clips are never replaced.
        max_bad_share: Share of bad samples above which the run ends all the same.
        mixture: Shares of the sources of `train`; None: every record is heard once an epoch.
        group_by_length: Put samples of like length, audio and text together, into the same batch.
        supervise: What is learnt of a conversation: `assistant` turns, or `all` text, as LTU does.
        pack: Put several samples of a batch into one row, where none sees another, instead of padding each.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    dataset: str | None = None
    dataset_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    folds: FoldSettings = FoldSettings()
    workers: int = 0
    cache_features: bool = False
    feature_folder: str | None = None
    cache_limit_gb: float = 4.0
    max_length: int = 2048
    on_bad: str = "stop"
    max_bad_share: float = 0.01
    mixture: MixtureSettings | None = None
    group_by_length: bool = False
    supervise: str = "assistant"
    pack: bool = False

    def __post_init__(self) -> None:
        for key, choices in (("on_bad", ON_BAD), ("supervise", SUPERVISED)):
            if getattr(self, key) not in choices:
                raise ConfigError(
                    f"data.{key}: got '{getattr(self, key)}', expected one of {', '.join(choices)}"
                )
        if not 0.0 <= self.max_bad_share <= 1.0:
            raise ConfigError(f"data.max_bad_share: got {self.max_bad_share}, expected a share from 0 to 1")
        given = self.mixture.weights if self.mixture is not None else ()
        if given and len(given) != len(self.train):
            raise ConfigError(
                f"data.mixture.weights: got {len(given)} weights for {len(self.train)} sources in "
                "data.train; give one each"
            )
