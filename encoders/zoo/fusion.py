"""Two or more encoders at once, their tokens side by side at a common frame rate, under the encoder contract.

`encoder: {fusion: concat, parts: [DIR, {encoder: FILE, model_class: beats}]}` in a config and
`load_encoder({"fusion": "concat", "parts": [...]})` fuse loaded encoders, as SALMONN does with Whisper and BEATs (Tang
et al. 2024). Axis letters: B batch, S samples, N tokens, T time steps, F frequency steps, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from alm.common.errors import AudioError, ConfigError, shown
from alm.common.fields import located
from encoders.base import AudioEncoder, AudioTokens, EncoderConfig, n_time_mask
from encoders.registry import CONCAT, config_from_dict, encoder_class, load_encoder, part_sources

# A common window of more than this many windows of the longest part is treated as no window.
_MOST_WINDOWS = 4
_EPS = 1e-6  # overlaps of less than this share of a time step come from rounding of the rates


@dataclass(frozen=True)
class FusionConfig(EncoderConfig):
    """The configs of the parts. Tokens have the time steps of the part with the most per second."""

    model_class: str = "FusionEncoder"
    fusion: str = CONCAT
    """How tokens of one moment are joined: `concat` lays them side by side."""
    parts: list[dict[str, Any]] = field(
        default_factory=lambda: [{"model_class": "WhisperEncoder"}, {"model_class": "BeatsEncoder"}]
    )
    """Configs of the encoders."""

    def __post_init__(self) -> None:
        if self.fusion != CONCAT:
            raise ConfigError(f"fusion is {shown(self.fusion, 40)}; expected {CONCAT}")
        if len(self.parts) < 2:
            raise ConfigError(f"parts: got {len(self.parts)}; expected at least two encoders")
        rates = [part.sample_rate for part in self.inner]
        if {*rates} != {self.sample_rate}:
            raise ConfigError(
                f"sample_rate is {self.sample_rate}, that of the parts {', '.join(map(str, rates))}; expected one for "
                "all: fuse encoders that take the same"
            )

    @cached_property
    def inner(self) -> list[EncoderConfig]:
        """The parts' configs."""
        found = []
        for number, values in enumerate(self.parts):
            if not isinstance(values, dict):
                raise ConfigError(
                    f"parts[{number}] is {shown(values, 80)}; expected the config of an encoder"
                )
            found.append(config_from_dict(values, f"parts[{number}]"))
        return found

    @property
    def leading(self) -> EncoderConfig:
        """The part whose time steps the tokens have: the first of those with the most per second."""
        return max(self.inner, key=lambda part: part.frame_rate_hz)

    @property
    def timed_dims(self) -> slice:
        """The leading part's values."""
        number = self.inner.index(self.leading)
        start = sum(self.part_dims[:number])
        return slice(start, start + self.part_dims[number])

    @property
    def part_dims(self) -> list[int]:
        """Widths of the parts in a token: that of all their frequency rows."""
        return [part.dim * part.n_freq for part in self.inner]

    @property
    def dim(self) -> int:
        """Width D of a token: that of all frequency rows of all parts."""
        return sum(self.part_dims)

    @property
    def n_freq(self) -> int:
        """One: the frequency rows of a moment lie side by side."""
        return 1

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second of the leading part."""
        return self.leading.frame_rate_hz

    @property
    def clip_s(self) -> float:
        """Seconds after which the windows of all parts start together; `math.inf` if that is (nearly) never."""
        windows = [part.clip_s for part in self.inner]
        if not all(map(math.isfinite, windows)):
            return math.inf
        samples = math.lcm(*(round(window * self.sample_rate) for window in windows))
        return (
            samples / self.sample_rate
            if samples <= _MOST_WINDOWS * max(windows) * self.sample_rate
            else math.inf
        )

    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a clip: those of the leading part; every part must have at least one.

        Raises:
            AudioError: The clip is too short for a time step of one of the parts.
        """
        for number, part in enumerate(self.inner):
            with located(f"parts[{number}]", AudioError):
                part.n_time_for(n_samples)
        return self.leading.n_time_for(n_samples)


class FusionEncoder(AudioEncoder):
    """Several encoders of the same clip; their tokens of one time step are concatenated to one token.

    The steps of a slower part are repeated; a step that overlaps two of them is their mean, weighted by overlap. If a
    part has no step for the end of a clip, its last step is used. Each part's tokens are first normalised over their
    width (LayerNorm without weights), as SALMONN does, so that none outweighs the others by its scale.
    """

    config: FusionConfig
    config_class = FusionConfig
    licence = "-"
    n_parameters: ClassVar[int | None] = 98_520_176

    def __init__(
        self, config: FusionConfig | None = None, parts: Sequence[AudioEncoder] | None = None
    ) -> None:
        config = config or FusionConfig()
        super().__init__(config)
        if parts is None:
            parts = [encoder_class(inner.model_class)(inner) for inner in config.inner]
        self.parts = nn.ModuleList(parts)
        self.lora_targets = tuple(  # type: ignore[misc]  # full names: one part's suffix may fit a module of another
            name for prefix, part in self.named_parts().items() for name in _linear_names(prefix, part)
        )
        self.learned_statistics = tuple(  # type: ignore[misc]
            f"{name}.{inner}"
            for name, part in self.named_parts().items()
            for inner in part.learned_statistics
        )
        self.uses_audio = all(part.uses_audio for part in parts)  # type: ignore[misc]

    @classmethod
    def from_parts(cls, values: Mapping[str, Any]) -> Self:
        """Load the encoders that a mapping names and fuse them.

        Args:
            values: `fusion` (`concat`) and `parts`. A part is a source that `load_encoder` takes, or a mapping with the
                key `encoder` for that source and further keys for its options.

        Raises:
            ConfigError: Unknown or missing key, fewer than two parts, or parts that do not fit together.
            CheckpointError: A part's weights are missing or do not fit.
        """
        parts = [load_encoder(source, **options) for source, options in part_sources(values)]
        config = FusionConfig.from_dict(
            {
                "sample_rate": parts[0].config.sample_rate,
                "fusion": values["fusion"],
                "parts": [part.config.to_dict() for part in parts],
            },
            "encoder",
        )
        return cls(config, parts).eval()

    def named_parts(self) -> dict[str, AudioEncoder]:
        """The fused encoders; see `AudioEncoder.named_parts`."""
        return {f"parts.{number}": part for number, part in enumerate(self.parts)}  # type: ignore[misc]

    @property
    def readout(self) -> list[nn.Parameter]:
        """Those of the parts."""
        return [parameter for part in self.named_parts().values() for parameter in part.readout]

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Encode a padded batch; see `AudioEncoder.forward`."""
        n_time = self.check_lengths(lengths)
        grid = (max(n_time, default=0), 1)
        made = [part(waveform, lengths) for part in self.parts]
        rows = [
            _at_rate(out, inner.frame_rate_hz / self.config.frame_rate_hz, grid[0])
            for out, inner in zip(made, self.config.inner, strict=True)
        ]
        tokens = torch.cat([row.to(rows[0].dtype) for row in rows], dim=2)  # (B, T, D)
        mask = n_time_mask(n_time, grid, tokens.device)
        pooled = torch.cat([out.clip_features().to(tokens.dtype) for out in made], dim=1)
        return AudioTokens(tokens * mask[..., None], mask, grid, pooled=pooled)

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny Whisper (windows of 1 s, 50 steps a second) and a tiny BEATs (0.5 s, 10 steps of 4 rows)."""
        from encoders.zoo.beats import BeatsConfig, BeatsEncoder
        from encoders.zoo.whisper import WhisperEncoder

        beats = BeatsConfig(
            embed_dim=32, depth=2, num_heads=2, n_frames=50, n_mels=40, patch_size=10, patch_dim=16,
            conv_pos=8, conv_pos_groups=4, num_buckets=32, max_distance=64,
        )  # fmt: skip
        parts = [WhisperEncoder.tiny(seed), BeatsEncoder._tiny(beats, seed)]
        return cls(FusionConfig(parts=[part.config.to_dict() for part in parts]), parts).eval()


def _linear_names(prefix: str, part: AudioEncoder) -> list[str]:
    """Full names of the Linear modules of a part that its `lora_targets` name."""
    return [
        f"{prefix}.{name}"
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear) and any(f".{name}".endswith(f".{t}") for t in part.lora_targets)
    ]


def _at_rate(out: AudioTokens, ratio: float, n_time: int) -> Tensor:
    """A part's tokens at other time steps, all frequency rows of a moment side by side.

    Args:
        out: The part's output.
        ratio: Its time steps per new time step.
        n_time: Number of new time steps.

    Returns:
        (B, n_time, F * D). Step m is the mean of the part's steps that overlap [m, m + 1) * ratio, by overlap.
    """
    tokens = functional.layer_norm(out.tokens, out.tokens.shape[-1:])  # zeros stay zeros
    steps = tokens.unflatten(1, out.grid).flatten(2)  # (B, T, F * D)
    last = (out.mask.unflatten(1, out.grid)[..., 0].sum(dim=1) - 1).clamp(min=0)  # (B,)
    starts = torch.arange(n_time, dtype=torch.float64) * ratio  # on the CPU: MPS has no float64
    first = (starts + _EPS).floor()
    made: Tensor = steps.new_zeros(len(steps), n_time, steps.shape[2])
    for further in range(math.ceil(ratio - _EPS) + 1):
        place = first + further
        overlap = (torch.minimum(place + 1, starts + ratio) - torch.maximum(place, starts)) / ratio
        share = torch.where(overlap > _EPS, overlap, 0.0).to(steps.dtype).to(steps.device)  # (n_time,)
        index = torch.minimum(place.long().to(last.device)[None], last[:, None])  # (B, n_time)
        made = made + share[:, None] * steps.take_along_dim(index[..., None], dim=1)
    return made


ENCODER = FusionEncoder
