"""Options of the fine-tuning stage: head, recipe, augmentation, evaluation."""

from __future__ import annotations

import dataclasses
import re

from alm.common.errors import ConfigError
from alm.common.settings import check_choice, check_ranges

HEADS = ("auto", "attentive", "aasist")
MODES = ("full", "linear", "attentive", "weighted_sum")
_LAYER = re.compile(r"layer:(\d+)")
SOLVERS = ("adamw", "logistic")
METRICS = ("auto", "accuracy", "mean_average_precision", "equal_error_rate")


@dataclasses.dataclass(frozen=True)
class FoldSettings:
    """Held-out folds, for data sets that have folds.

    Attributes:
        column: Column of a label CSV that holds the fold.
        test: The test fold, scored once at the end; None uses the data set's own splits.
        validation: The fold that selects the best epoch; `auto` splits off a share of the training clips, `next` takes
            the fold after the test fold.
    """

    column: str = "fold"
    test: str | int | None = None
    validation: str | int = "auto"


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """Augmentation of the training clips, as a function of (seed, epoch, clip).

    Attributes:
        mixup: Probability that a clip and its labels are mixed with another clip, with weight Beta(mixup_beta,
            mixup_beta).
        mixup_beta: Parameter of that Beta distribution.
        crop_s: Length in seconds of the random crop that training uses; None uses the whole clip.
        noise: Add uniform noise of random strength (at most 0.1) to the normalised log-mel and shift it by up to ten
            frames (the official Speech Commands recipe).
        spec_freq: SpecAugment: largest width of the masked band, in mels; 0 masks none.
        spec_time: SpecAugment: largest length of the masked stretch, in frames; 0 masks none.
        mask_time: Share of the time columns of patches that are dropped.
        mask_freq: Share of the frequency bands of patches that are dropped.
    """

    mixup: float = 0.0
    mixup_beta: float = 10.0
    crop_s: float | None = None
    noise: bool = False
    spec_freq: int = 0
    spec_time: int = 0
    mask_time: float = 0.0
    mask_freq: float = 0.0

    def __post_init__(self) -> None:
        for key in ("mixup", "mask_time", "mask_freq"):
            if not 0 <= getattr(self, key) <= 1 or (key != "mixup" and getattr(self, key) == 1):
                raise ConfigError(
                    f"finetune.augment.{key}: got {getattr(self, key)}, expected 0 to 1"
                    + ("" if key == "mixup" else ", without 1")
                )
        if self.mixup_beta <= 0 or (self.crop_s is not None and self.crop_s <= 0):
            raise ConfigError(
                f"finetune.augment: got mixup_beta={self.mixup_beta}, crop_s={self.crop_s}; expected more than 0"
            )
        if self.spec_freq < 0 or self.spec_time < 0:
            raise ConfigError(
                f"finetune.augment: got spec_freq={self.spec_freq}, spec_time={self.spec_time}; expected 0 or more"
            )

    @property
    def on_log_mel(self) -> bool:
        """Whether the augmentation acts on the encoder's log-mel or patches."""
        return bool(self.noise or self.spec_freq or self.spec_time or self.mask_time or self.mask_freq)

    @property
    def any(self) -> bool:
        """Whether a clip differs from epoch to epoch."""
        return bool(self.on_log_mel or self.mixup or self.crop_s)


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """Fine-tuning or probing of an encoder on labelled clips.

    Attributes:
        mode: `full` trains encoder and head. The others keep the encoder frozen and train a probe: `linear` on its clip
            feature, `attentive` on its tokens (learned queries attend to them), `weighted_sum` on a learned average of
            its layers' features, `layer:N` on the feature of one layer (0 is the input of the first block).
        head: `auto` follows the mode; `attentive` and `aasist` (graph attention over the grid of tokens, for spoofed or
            generated audio) read tokens, in mode `full` or `attentive`.
        solver: `adamw`; or `logistic`, for modes `linear` and `layer:N` with cached features: logistic regression on
            the standardised feature, with the penalty chosen by cross-validation on training and validation clips. The
            log-mel baseline uses it too. It needs no learning rate and no number of epochs.
        probe_first: Mode `full` starts from the logistic solver's classifier on the features of the unchanged encoder,
            instead of from small random weights.
        epochs: Passes over the training clips; replaces `optim.steps`.
        warmup_epochs: Epochs of linear warm-up; replaces `optim.warmup_steps`.
        base_lr: Learning rate per 256 clips; replaces `optim.lr` by base_lr * batch / 256.
        layer_decay: Learning rate of a block divided by that of the block above it; 1 gives all blocks the same rate.
        queries: Learned queries of the attentive head; each averages its own share of the channels.
        head_std: Standard deviation of the classifier's initial weights (2.5e-5 in the official recipe).
        loss: `bce`, `ce`, or `auto`: bce if clips have several labels, else ce.
        label_smoothing: Share of the target that is spread evenly over the classes.
        class_weights: Weight of a class's clips in the loss; classes that are not listed have weight 1.
        balanced: Sample clips with weights that make classes equally frequent.
        draws: Clips sampled per epoch with `balanced`; None samples as many as there are training clips.
        augment: Augmentation of the training clips.
        test_crops: Number of evenly spaced crops of `augment.crop_s` whose probabilities are averaged in testing; 1
            uses the whole clip.
        metric: The metric that selects the epoch and comes first in the report; `auto` takes the data set's.
        validation_share: Share of the training groups that is held out for validation if no split is given.
        cache: Compute a frozen encoder's features once and keep them in memory.
        folds: Run cross-validation over these folds (`all` or a list), each in its own run directory.
        controls: Also train the same head on the same encoder with random weights.
        baseline: Also score logistic regression on mean and standard deviation of the log-mel.
    """

    mode: str = "linear"
    head: str = "auto"
    solver: str = "adamw"
    probe_first: bool = False
    epochs: int | None = None
    warmup_epochs: float | None = None
    base_lr: float | None = None
    layer_decay: float = 1.0
    queries: int = 4
    head_std: float = 2.5e-5
    loss: str = "auto"
    label_smoothing: float = 0.0
    class_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    balanced: bool = False
    draws: int | None = None
    augment: AugmentSettings = AugmentSettings()
    test_crops: int = 1
    metric: str = "auto"
    validation_share: float = 0.15
    cache: bool = True
    folds: str | tuple[str | int, ...] | None = None
    controls: bool = False
    baseline: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES and not _LAYER.fullmatch(self.mode):
            raise ConfigError(
                f"finetune.mode: got '{self.mode}', expected one of {', '.join(MODES)} or layer:N"
            )
        check_choice("finetune.head", self.head, HEADS)
        check_choice("finetune.solver", self.solver, SOLVERS)
        check_choice("finetune.loss", self.loss, ("auto", "bce", "ce"))
        check_choice("finetune.metric", self.metric, METRICS)
        if self.head != "auto" and self.mode not in ("full", "attentive"):
            raise ConfigError(
                f"finetune.head: {self.head} reads tokens; set finetune.mode to full or attentive, not {self.mode}"
            )
        counts = ("epochs", "draws", "queries", "test_crops")
        check_ranges("finetune", self, **dict.fromkeys(counts, (1, None)))
        if (
            not 0 < self.layer_decay <= 1
            or not 0 < self.validation_share < 1
            or not 0 <= self.label_smoothing < 1
        ):
            raise ConfigError(
                f"finetune: got layer_decay={self.layer_decay}, validation_share={self.validation_share}, "
                f"label_smoothing={self.label_smoothing}; expected (0, 1], (0, 1) and [0, 1)"
            )
        if self.base_lr is not None and self.base_lr <= 0:
            raise ConfigError(f"finetune.base_lr: got {self.base_lr}, expected more than 0")
        if self.test_crops > 1 and self.augment.crop_s is None:
            raise ConfigError(
                "finetune.test_crops: crops need finetune.augment.crop_s, their length in seconds"
            )
        if self.cached and self.augment.any:
            raise ConfigError("finetune.augment: cached features are not augmented; set finetune.cache=false")
        if self.solver == "logistic":
            self._check_logistic()
        if self.probe_first and (self.mode != "full" or self.head != "auto"):
            raise ConfigError(
                f"finetune.probe_first: is for mode full with head auto, not mode {self.mode} with head {self.head}"
            )
        if self.draws is not None and not self.balanced:
            raise ConfigError("finetune.draws: needs weighted sampling; set finetune.balanced=true")
        if self.layer is None and self.mode != "full" and self.layer_decay != 1:
            raise ConfigError(
                f"finetune.layer_decay: the encoder is frozen in mode {self.mode}; leave it at 1"
            )
        if isinstance(self.folds, str) and self.folds != "all":
            raise ConfigError(f"finetune.folds: got '{self.folds}', expected all or a list such as [1, 2]")

    def _check_logistic(self) -> None:
        """Check that no option is set that the logistic solver does not have."""
        if self.mode != "linear" and self.layer is None:
            raise ConfigError(f"finetune.solver: logistic is for mode linear or layer:N, not {self.mode}")
        unused = (
            "epochs",
            "warmup_epochs",
            "base_lr",
            "label_smoothing",
            "class_weights",
            "balanced",
            "loss",
        )
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"class_weights": {}}
        for key in unused:
            if getattr(self, key) != defaults[key]:
                raise ConfigError(f"finetune.{key}: the logistic solver does not have this option; remove it")
        if not self.cache:
            raise ConfigError("finetune.cache: the logistic solver needs cached features; set it to true")

    @property
    def layer(self) -> int | None:
        """N of mode `layer:N`."""
        match = _LAYER.fullmatch(self.mode)
        return int(match[1]) if match else None

    @property
    def reads_tokens(self) -> bool:
        """Whether the head reads the encoder's tokens rather than one feature per clip."""
        return self.mode == "attentive" or self.head != "auto"

    @property
    def frozen(self) -> bool:
        """Whether the encoder is frozen."""
        return self.mode != "full"

    @property
    def cached(self) -> bool:
        """Whether features are computed once and cached."""
        return self.frozen and self.cache
