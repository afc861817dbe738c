"""Options of the fine-tuning stage: head, recipe, augmentation, evaluation."""

from __future__ import annotations

import dataclasses
import re

from alm.common.errors import ConfigError

HEADS = ("auto", "attentive", "aasist")
MODES = ("full", "linear", "attentive", "weighted_sum")
_LAYER = re.compile(r"layer:(\d+)")
SOLVERS = ("adamw", "logistic")
METRICS = ("auto", "accuracy", "mean_average_precision", "equal_error_rate")


@dataclasses.dataclass(frozen=True)
class FoldSettings:
    """Which folds are held out, for data sets that have folds.

    Attributes:
        column: Column of the fold in a label CSV.
        test: The fold scored at the end; None uses the data set's own splits.
        validation: The fold that chooses the epoch, `auto` for a share of the training clips, or `next` for
            the fold after the test fold.
    """

    column: str = "fold"
    test: str | int | None = None
    validation: str | int = "auto"


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """What training hears and sees differently each epoch; a function of (seed, epoch, clip).

    Attributes:
        mixup: Share of clips mixed with another at the weight Beta(mixup_beta, mixup_beta), labels too.
        mixup_beta: See `mixup`.
        crop_s: Training hears a random part of this length; None the whole clip.
        noise: Uniform noise on the normalised log-mel, up to 0.1 and of random strength, and a shift of up to ten
            frames (the official Speech Commands recipe).
        spec_freq: SpecAugment: widest band hidden, in mels.
        spec_time: SpecAugment: longest stretch hidden, in frames.
        mask_time: Share of the time columns of patches left out.
        mask_freq: Share of the frequency bands of patches left out.
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
                    f"finetune.augment.{key}: got {getattr(self, key)}, expected a share from 0 to 1"
                )
        if self.mixup_beta <= 0 or (self.crop_s is not None and self.crop_s <= 0):
            raise ConfigError(
                f"finetune.augment: got mixup_beta={self.mixup_beta}, crop_s={self.crop_s}; expected more than 0"
            )
        if self.spec_freq < 0 or self.spec_time < 0:
            raise ConfigError("finetune.augment: spec_freq and spec_time are widths; expected 0 or more")

    @property
    def on_log_mel(self) -> bool:
        """Whether the encoder's log-mel or its patches must be within reach."""
        return bool(self.noise or self.spec_freq or self.spec_time or self.mask_time or self.mask_freq)

    @property
    def any(self) -> bool:
        """Whether anything changes from epoch to epoch."""
        return bool(self.on_log_mel or self.mixup or self.crop_s)


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How an encoder is carried over to labelled clips.

    Attributes:
        mode: full (everything trains), or a probe of the frozen encoder: linear (its clip feature), attentive
            (learned queries attend to its tokens), weighted_sum (of its layers' features), layer:N (one layer's
            feature, 0 being what enters the first block).
        head: auto (what the mode says), attentive, or aasist (graph attention over the grid of tokens, for spoofed or
            generated audio); the latter two read tokens, in mode full or, the encoder frozen, in mode attentive.
        solver: adamw, or for mode linear and layer:N with features computed once `logistic`: logistic regression on
            the standardised feature, its penalty chosen by cross-validation on the training and validation clips. It
            is what the log-mel baseline gets too, and depends neither on a learning rate nor on a number of epochs.
        probe_first: Mode full starts from the logistic solver's classifier of the encoder's features as they are,
            rather than from small random weights.
        epochs: Passes over the training clips, in place of optim.steps.
        warmup_epochs: Of them, in place of optim.warmup_steps.
        base_lr: Learning rate per 256 clips, in place of optim.lr: lr = base_lr x batch / 256.
        layer_decay: Each block learns this much slower than the one above it.
        queries: Learned queries of the attentive probe; each averages its own share of the channels.
        head_std: Deviation of the classifier's first weights (2.5e-5 in the official recipe).
        loss: auto (bce where clips have several labels, else ce), bce or ce.
        label_smoothing: Share of the target spread evenly over the classes.
        class_weights: Class to weight of its clips in the loss; other classes have 1.
        balanced: Draw clips with weights that make classes equally frequent.
        draws: Clips drawn per epoch where balanced; None draws as many as there are.
        augment: Augmentation of training.
        test_crops: Evenly spaced parts of `crop_s` whose probabilities are averaged; 1 hears the whole clip.
        metric: What chooses the epoch and heads the report; auto takes the data set's.
        validation_share: Share of the training groups kept for validation where no split is given.
        cache: Compute a frozen encoder's features once and keep them in memory.
        folds: Run every fold named (`all` or a list), each in its own run directory.
        controls: Also train the same head on the same encoder with random weights.
        baseline: Also score logistic regression on the mean and deviation of the log-mel.
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
        chosen = (("head", HEADS), ("solver", SOLVERS), ("loss", ("auto", "bce", "ce")), ("metric", METRICS))
        for key, choices in chosen:
            if getattr(self, key) not in choices:
                raise ConfigError(
                    f"finetune.{key}: got '{getattr(self, key)}', expected one of {', '.join(choices)}"
                )
        if self.head != "auto" and self.mode not in ("full", "attentive"):
            raise ConfigError(
                f"finetune.head: {self.head} reads tokens; set finetune.mode to full or attentive, not {self.mode}"
            )
        for key in ("epochs", "draws", "queries", "test_crops"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"finetune.{key}: got {value}, expected 1 or more")
        if (
            not 0 < self.layer_decay <= 1
            or not 0 < self.validation_share < 1
            or not 0 <= self.label_smoothing < 1
        ):
            raise ConfigError(
                f"finetune: got layer_decay={self.layer_decay}, validation_share={self.validation_share}, "
                f"label_smoothing={self.label_smoothing}; expected shares (decay up to 1, smoothing from 0)"
            )
        if self.base_lr is not None and self.base_lr <= 0:
            raise ConfigError(f"finetune.base_lr: got {self.base_lr}, expected more than 0")
        if self.test_crops > 1 and self.augment.crop_s is None:
            raise ConfigError(
                "finetune.test_crops: crops need finetune.augment.crop_s, their length in seconds"
            )
        if self.cached and self.augment.any:
            raise ConfigError(
                "finetune.augment: features that are computed once hear no augmentation; set finetune.cache=false"
            )
        if self.solver == "logistic":
            self._check_logistic()
        if self.probe_first and (self.mode != "full" or self.head != "auto"):
            raise ConfigError(
                f"finetune.probe_first: is for mode full with head auto, not {self.mode} with {self.head}"
            )
        if self.draws is not None and not self.balanced:
            raise ConfigError("finetune.draws: draws are weighted; set finetune.balanced=true")
        if self.layer is None and self.mode != "full" and self.layer_decay != 1:
            raise ConfigError(
                f"finetune.layer_decay: the encoder is frozen in mode {self.mode}; leave it at 1"
            )
        if isinstance(self.folds, str) and self.folds != "all":
            raise ConfigError(f"finetune.folds: got '{self.folds}', expected all or a list such as [1, 2]")

    def _check_logistic(self) -> None:
        """Whether the logistic solver can do all that is asked."""
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
                raise ConfigError(f"finetune.{key}: the logistic solver has no such thing; leave it out")
        if not self.cache:
            raise ConfigError(
                "finetune.cache: the logistic solver needs features that are computed once; leave it on"
            )

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
        """Whether the encoder does not train."""
        return self.mode != "full"

    @property
    def cached(self) -> bool:
        """Whether features are computed once."""
        return self.frozen and self.cache
