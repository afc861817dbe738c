"""The `data` section of a stage's config."""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.common.errors import ConfigError
from alm.common.settings import check_choice, check_ranges
from alm.data.readers.base import parse_source
from encoders.audio.options import AudioOptions
from train.settings.augment import WaveformAugmentSettings
from train.settings.finetune import FoldSettings

SUPERVISED = ("assistant", "all")
ON_BAD = ("stop", "quarantine")


@dataclasses.dataclass(frozen=True)
class MixtureSettings:
    """Sampling shares of the sources of `data.train`.

    A source's share is proportional to weight ** (1 / temperature). An epoch has as many samples as there are records.
    All records of a source are visited before any of them is repeated, also across epochs.

    Attributes:
        weights: One per source; empty uses the sources' numbers of records.
        temperature: 1 uses the weights as they are, larger values make the shares more equal.
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
    """Training, validation and test data of a stage.

    Attributes:
        train: Sources in any format (`alm list formats`): a path, or a mapping with `path`, `format`, `columns`,
            `prompt`, `split` and more (`alm.data.readers.base.DataSource`). Pretraining uses their audio alone; it also
            takes label tables (CSV with ESC-50's columns) and folders, of which it uses every audio file. Fine-tuning
            takes label tables.
        validation: Sources whose loss is computed after training, once with the right audio and once with another
            clip's. Fine-tuning: label tables that select the best epoch; none splits off a share of the training clips.
        test: Label tables of the test clips (fine-tuning).
        dataset: A published corpus (`alm/data/corpora`) to fine-tune on, instead of label tables.
        dataset_options: Options of `dataset`, for example `root`.
        folds: Held-out folds (fine-tuning).
        workers: Number of loader processes; 0 loads in the main process.
        cache_features: Encode every clip once with the frozen encoder and cache its tokens.
        feature_folder: Folder of the cached features, shared by all runs with the same encoder, also at the same time;
            None caches in memory alone.
        cache_limit_gb: Size limit of the cached features in GB. A run that needs more is an error. If the folder
            exceeds the limit, the least recently used features are removed.
        max_length: Longest sample in tokens; a longer one is bad (see `on_bad`).
        on_bad: `stop` the run at a bad sample, or `quarantine` it: write it to `quarantine.jsonl` and use the next
            sample instead (pretrain, align, instruct). A sample is bad if its audio cannot be decoded, is truncated,
            too short for one token, or (only with `quarantine`) silent throughout, or if it is longer than
            `max_length`. Validation samples are never replaced.
        max_bad_share: Share of quarantined samples above which the run ends with an error.
        mixture: Sampling shares of the sources of `train`; None visits every record once an epoch.
        group_by_length: Put samples of similar length (audio and text tokens) into the same batch.
        supervise: Tokens that are labelled: those of `assistant` turns, or of `all` text, as in LTU.
        audio: How channels are mixed and peaks above full scale are treated (see `encoders.audio.AudioOptions`).
        pack: Put several samples of a batch into one row, instead of padding each. They do not attend to each other.
        share_clips: Largest number of records about the same audio in one row. A row holds the audio and the text
            before the questions once; each question with its answer attends to these and to itself alone.
            `optim.batch_size` then counts such rows, and an epoch visits every row once. 0 disables it.
        augment: Augmentation of the training clips' waveforms (align, instruct).
    """

    train: tuple[Any, ...] = ()
    validation: tuple[Any, ...] = ()
    test: tuple[Any, ...] = ()
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
    share_clips: int = 0
    audio: AudioOptions = AudioOptions()
    augment: WaveformAugmentSettings = WaveformAugmentSettings()

    def __post_init__(self) -> None:
        for key in ("train", "validation", "test"):
            parsed = tuple(
                parse_source(value, f"data.{key}[{i}]") for i, value in enumerate(getattr(self, key))
            )
            object.__setattr__(self, key, parsed)
        check_choice("data.on_bad", self.on_bad, ON_BAD)
        check_choice("data.supervise", self.supervise, SUPERVISED)
        check_ranges("data", self, max_bad_share=(0, 1), share_clips=(0, None))
        given = self.mixture.weights if self.mixture is not None else ()
        if given and len(given) != len(self.train):
            raise ConfigError(
                f"data.mixture.weights: got {len(given)} weights for {len(self.train)} sources in "
                "data.train; give one each"
            )
