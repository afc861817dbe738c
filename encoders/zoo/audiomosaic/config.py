"""AudioMosaic's config: the published release's config.json, checked, plus the values that it does not state."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from alm.common.errors import ConfigError
from alm.common.fields import coerce_fields, located
from encoders.mel import KaldiFbank, frames_or_error, n_frames_for
from encoders.windows import WindowedConfig

PRETRAIN = "AudioMosaicPretrain"
CLASSIFIER = "AudioMosaicClassifier"
LAYER = "AudioMosaicLayerProbe"
WEIGHTED_SUM = "AudioMosaicWeightedSumProbe"
ATTENTIVE = "AudioMosaicAttentiveProbe"
PROBES = (LAYER, WEIGHTED_SUM, ATTENTIVE)
BACKBONE = "AudioMosaicEncoder"


@dataclass(frozen=True)
class Normalisation:
    """Log-mel normalisation (x - mean) / divisor."""

    mean: float
    divisor: float


# Training divides by twice the standard deviation, `(fbank - mean) / (2 * std)` in the official data sets;
# released weights expect that. The statistics are those of the official dataset options.
NORMALISATIONS: dict[str, Normalisation] = {
    "audioset_train": Normalisation(-4.2677393, 2 * 4.5689974),
    "esc50": Normalisation(-6.6268077, 2 * 5.358466),
    "speech_commands": Normalisation(-6.845978, 2 * 5.5654526),
    # The `preprocess` helper published with the release divides by one standard deviation.
    "release_card": Normalisation(-4.2677393, 4.5689974),
    # The LTU integration keeps LTU's own constants (its CAV-MAE front end).
    "ltu": Normalisation(-5.081, 4.4849),
}
# Defaults of the official constructors that differ from ours; they apply to keys that a release's config.json lacks.
_OFFICIAL_DEFAULTS: dict[str, Any] = {
    "proj_bias": False,
    "pos_trainable": False,
    "pooling": "cls",
    "use_fc_norm": False,
    "mask_ratio_time": 0.8,
    "mask_ratio_freq": 0.8,
}
# Defaults of single official model classes that differ from those above.
_OFFICIAL_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    CLASSIFIER: {"num_classes": 2},
    **{probe: {"pooling": "avg"} for probe in PROBES},
}
_TRAINING = ("audioset_train", "esc50", "speech_commands")


@dataclass(frozen=True)
class AudioPreprocessing:
    """The `audio_preprocessing` entry of a release's config.json."""

    target_length: int = 1024
    num_mel_bins: int = 128
    norm_mean: float = -4.2677393
    norm_std: float = 4.5689974
    sample_rate: int = 16000
    frame_shift: float = 10.0


@dataclass(frozen=True)
class AudioMosaicConfig(WindowedConfig):
    """Constructor arguments of the official models; defaults are the published ViT-B/16."""

    model_class: str = PRETRAIN
    """AudioMosaicPretrain (contrastive head), AudioMosaicClassifier (linear), AudioMosaicLayerProbe,
    AudioMosaicWeightedSumProbe, AudioMosaicAttentiveProbe, or AudioMosaicEncoder (no head)."""
    spec_size: tuple[int, int] = (1024, 128)
    """Window seen at once: (frames, mels)."""
    patch_size: tuple[int, int] = (16, 16)
    """(frames, mels) of a patch."""
    in_chans: int = 1
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    """Bias of attn.proj and of both MLP layers (timm ties them)."""
    pre_norm: bool = True
    norm_layer_type: str = "layernorm"
    act_type: str = "gelu"
    pos_trainable: bool = True
    pooling: str = "avg"
    """avg: mean over CLS and (kept) tokens; cls; fusion: CLS beside the mean of the rest (classifier)."""
    use_fc_norm: bool = True
    """Normalise the pooled feature (fc_norm) and not the tokens; False: normalise every token (norm)."""
    project_embedding_dim: int = 128
    num_classes: int = 527
    drop_rate: float = 0.0
    """Kept for release files; the official forward never reaches this dropout, so only 0 is taken."""
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    classifier_drop_out: float = 0.0
    fusion_drop_rate: float = 0.0
    """Kept for release files; only 0 is taken."""
    probe_layer: int = 11
    """Block, from 0, that AudioMosaicLayerProbe reads."""
    num_attn_heads: int = 1
    """Heads of AudioMosaicAttentiveProbe."""
    mask_ratio: float | None = None
    mask_ratio_time: float = 0.6
    mask_ratio_freq: float = 0.4
    learnable_tau: bool = False
    learnable_bias: bool = False
    logit_scale_init: float = 0.07
    online_classifier: bool = False
    freeze_patch_embed: bool = False
    use_checkpoint: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    checkpointing_fraction: float = 1.0
    """Part of the blocks, from the first on, that `use_checkpoint` covers."""
    debug: bool = False
    normalisation: str = "audioset_train"
    """A name in NORMALISATIONS, or `custom` with norm_mean and norm_std."""
    norm_mean: float | None = None
    norm_std: float | None = None
    """Statistics for `custom`, used as in training: (x - mean) / (2 std)."""
    frame_shift: float = 10.0
    """Milliseconds from one frame to the next."""

    model_classes: ClassVar[tuple[str, ...]] = (PRETRAIN, CLASSIFIER, *PROBES, BACKBONE)

    def __post_init__(self) -> None:
        for key, choices in (
            ("model_class", self.model_classes),
            ("pooling", ("avg", "cls", "fusion")),
            ("norm_layer_type", ("layernorm", "rmsnorm")),
            ("act_type", ("gelu", "silu")),
            ("normalisation", (*NORMALISATIONS, "custom")),
        ):
            _require(getattr(self, key) in choices, key, getattr(self, key), f"one of {', '.join(choices)}")
        for axis, name in ((0, "frames"), (1, "mels")):
            size, patch = self.spec_size[axis], self.patch_size[axis]
            fits = patch > 0 and size > 0 and size % patch == 0
            _require(fits, "spec_size", self.spec_size, f"{name} in whole patches of {patch} (patch_size)")
        _require(self.embed_dim % 4 == 0, "embed_dim", self.embed_dim, "a multiple of 4 (sin-cos positions)")
        _require(self.num_heads > 0 and self.embed_dim % self.num_heads == 0, "num_heads", self.num_heads,
                 f"a divisor of embed_dim ({self.embed_dim})")  # fmt: skip
        _require(self.in_chans == 1, "in_chans", self.in_chans, "1 (a log-mel has one channel)")
        _require(self.drop_rate == 0, "drop_rate", self.drop_rate, "0 (use classifier_drop_out)")
        _require(self.fusion_drop_rate == 0, "fusion_drop_rate", self.fusion_drop_rate, "0")
        _require(not self.online_classifier, "online_classifier", True, "false (no part of the encoder)")
        _require(self.pooling != "fusion" or self.model_class == CLASSIFIER, "pooling", "fusion",
                 "avg or cls (fusion needs AudioMosaicClassifier)")  # fmt: skip
        _require(self.model_class != LAYER or 0 <= self.probe_layer < self.depth, "probe_layer",
                 self.probe_layer, f"a block from 0 to {self.depth - 1}")  # fmt: skip
        _require(self.num_attn_heads > 0 and self.embed_dim % self.num_attn_heads == 0, "num_attn_heads",
                 self.num_attn_heads, f"a divisor of embed_dim ({self.embed_dim})")  # fmt: skip
        _require(self.frame_shift * self.sample_rate >= 1000, "frame_shift", self.frame_shift,
                 "milliseconds of at least one sample")  # fmt: skip
        given = {self.normalisation == "custom", self.norm_mean is not None, bool(self.norm_std)}
        _require(len(given) == 1, "normalisation", self.normalisation,
                 "'custom' exactly where norm_mean and norm_std are given")  # fmt: skip

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.embed_dim

    @property
    def grid(self) -> tuple[int, int]:
        """(n_time, n_freq) of one window."""
        return self.spec_size[0] // self.patch_size[0], self.spec_size[1] // self.patch_size[1]

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return self.grid[1]

    @property
    def window_samples(self) -> int:
        """Samples that the frames of a window cover."""
        fbank = self.fbank()
        return (self.spec_size[0] - 1) * fbank.shift_samples + fbank.window_samples

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.spec_size[0] * self.fbank().shift_samples

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window."""
        return self.grid[0]

    def steps_in(self, n_samples: int) -> int:
        """Patches that hold a frame of the piece, the last perhaps partly filled."""
        return -(-self.weight_of(n_samples) // self.patch_size[0])

    def weight_of(self, n_samples: int) -> int:
        """Frames of the piece, so that a last window with few frames has little weight in the clip's feature."""
        return n_frames_for(n_samples, self.sample_rate, self.frame_shift)

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second (6.25 for patches of 16 frames of 10 ms)."""
        return 1000 / (self.frame_shift * self.patch_size[0])

    @property
    def clip_s(self) -> float:
        """Length in seconds of one window (10.24 for 1024 frames)."""
        return self.spec_size[0] * self.frame_shift / 1000

    @property
    def has_classes(self) -> bool:
        """Whether the model class ends in class logits."""
        return self.model_class not in (PRETRAIN, BACKBONE)

    @property
    def norm(self) -> Normalisation:
        """The normalisation in force."""
        if self.norm_mean is not None and self.norm_std is not None:
            return Normalisation(self.norm_mean, 2 * self.norm_std)
        return NORMALISATIONS[self.normalisation]

    def fbank(self) -> KaldiFbank:
        """The front end."""
        return KaldiFbank(self.sample_rate, self.spec_size[1], self.frame_shift)

    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a whole clip: its frames in patches, the last one perhaps partly filled."""
        return -(-frames_or_error(n_samples, self.sample_rate, self.frame_shift) // self.patch_size[0])

    def to_dict(self) -> dict[str, Any]:
        """The release's config.json, with `normalisation` beside the constants official tools read."""
        values = super().to_dict()
        for flat in ("sample_rate", "frame_shift", "norm_mean", "norm_std"):
            del values[flat]
        one_std = self.normalisation in ("release_card", "ltu")
        values["audio_preprocessing"] = dataclasses.asdict(
            AudioPreprocessing(
                target_length=self.spec_size[0],
                num_mel_bins=self.spec_size[1],
                norm_mean=self.norm.mean,
                norm_std=self.norm.divisor if one_std else self.norm.divisor / 2,
                sample_rate=self.sample_rate,
                frame_shift=self.frame_shift,
            )
        )
        return values

    @classmethod
    def _flat(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Unpack the release's `audio_preprocessing` into the front-end fields; known statistics get their name."""
        if values.get("audio_preprocessing") is None:
            return {key: value for key, value in values.items() if key != "audio_preprocessing"}
        values = dict(values)
        given = values.pop("audio_preprocessing")
        if not isinstance(given, dict):
            raise ConfigError(f"audio_preprocessing is {given!r}; expected a mapping")
        with located("audio_preprocessing"):
            entry = AudioPreprocessing(**coerce_fields(AudioPreprocessing, given))
        size = values.get("spec_size", cls.spec_size)
        sizes = size if isinstance(size, list | tuple) else ()  # a wrong type is reported with the other keys
        for key, wanted in zip(("target_length", "num_mel_bins"), sizes, strict=False):
            if key in given and given[key] != wanted:
                raise ConfigError(
                    f"audio_preprocessing.{key} is {given[key]} but spec_size says {wanted}; make them equal"
                )
        front_end = {"sample_rate": entry.sample_rate, "frame_shift": entry.frame_shift}
        return front_end | _statistics(entry) | values

    @classmethod
    def from_release(cls, values: dict[str, Any], where: str) -> Self:
        """Read the config.json beside weights: missing values have the official constructors' defaults.

        Raises:
            ConfigError: Unknown key (names the nearest), wrong type, or contradicting values.
        """
        own = _OFFICIAL_CLASS_DEFAULTS.get(str(values.get("model_class")), {})
        return cls.from_dict(_OFFICIAL_DEFAULTS | own | values, where)

    def replace(self, where: str = "encoder config", **overrides: Any) -> Self:
        """A copy with some values changed.

        Giving norm_mean and norm_std sets the normalisation to `custom`; naming another normalisation drops both.
        """
        if "normalisation" in overrides and overrides["normalisation"] != "custom":
            overrides = {"norm_mean": None, "norm_std": None} | overrides
        elif overrides.get("norm_mean") is not None:
            overrides = {"normalisation": "custom"} | overrides
        return super().replace(where, **overrides)


def _statistics(entry: AudioPreprocessing) -> dict[str, Any]:
    """The named normalisation these statistics belong to, or `custom`."""
    for name in _TRAINING:
        if NORMALISATIONS[name] == Normalisation(entry.norm_mean, 2 * entry.norm_std):
            return {"normalisation": name}
    if NORMALISATIONS["ltu"] == Normalisation(entry.norm_mean, entry.norm_std):
        return {"normalisation": "ltu"}
    return {"normalisation": "custom", "norm_mean": entry.norm_mean, "norm_std": entry.norm_std}


def _require(holds: bool, key: str, got: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {got!r}; expected {expected}")
