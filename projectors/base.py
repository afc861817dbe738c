"""The projector contract: encoder tokens in, LLM-width embeddings out, lengths known beforehand.

Axis letters: B batch, N encoder tokens (time-major, `n = t * n_freq + f`), M LLM tokens, D width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError, did_you_mean
from alm.common.fields import coerce_fields


class ProjectorError(ConfigError):
    """Invalid projector options or inputs; the message names the option and the fix."""


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """The sizes of the encoder and the LLM that every projector connects.

    Attributes:
        encoder_dim: Width D of the encoder's tokens.
        n_freq: Frequency rows per time step in the encoder's grid (1 for sequence encoders).
        frame_rate_hz: Time steps per second that the encoder delivers.
        llm_dim: Width of the LLM's input embeddings.
        centred: Whether a fixed vector, `Projector.centre`, is subtracted from every encoder token first. Without this,
            a large vector that all tokens share would make their differences very small after LayerNorm. `alm train`
            measures the vector, and decides by itself unless this option is given.
        scaled: Whether every value of a token is then multiplied by a fixed number, `Projector.scale`, so that the
            parts of a fusion of encoders have equal deviation. Only with `centred`; `alm train` decides by itself
            unless this option is given.
    """

    name: ClassVar[str] = ""
    encoder_dim: int
    n_freq: int
    frame_rate_hz: float
    llm_dim: int
    centred: bool = dataclasses.field(default=False, kw_only=True)
    scaled: bool = dataclasses.field(default=False, kw_only=True)

    def n_tokens_for(self, n_time: int) -> int:
        """Number of LLM tokens for a clip with `n_time` valid encoder time steps; a pure function."""
        raise NotImplementedError

    @property
    def tokens_per_second(self) -> float | None:
        """LLM tokens per second of audio; None if the number per clip is fixed."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values, with the registry name."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProjectorConfig:
        """Build the config from plain values.

        Raises:
            ProjectorError: Unknown option (names the nearest), missing option, wrong type or size.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known and key != "name":
                hint = did_you_mean(key, known, f"known options: {', '.join(known)}")
                raise ProjectorError(f"projector '{cls.name}' has no option '{key}'; {hint}")
        given = {key: value for key, value in values.items() if key != "name"}
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if missing := [key for key in required if key not in given]:
            raise ProjectorError(
                f"projector '{cls.name}': {', '.join(missing)} missing; expected a value for each"
            )
        try:
            config = cls(**coerce_fields(cls, given))
        except ProjectorError:
            raise
        except ConfigError as error:
            raise ProjectorError(f"projector '{cls.name}': {error}") from error
        for key in required:
            if not getattr(config, key) > 0:
                raise ProjectorError(
                    f"projector '{cls.name}': {key}={getattr(config, key)}, expected more than 0"
                )
        if config.scaled and not config.centred:
            raise ProjectorError(
                f"projector '{cls.name}': scaled=True without centred=True; set both, or none of them"
            )
        return config


@dataclasses.dataclass(frozen=True)
class GroupedConfig(ProjectorConfig):
    """Options of projectors that make one LLM token of each group of neighbouring encoder time steps."""

    group_option: ClassVar[str]
    """Name of the option with the number of time steps in a group."""

    def __post_init__(self) -> None:
        if self._group < 1:
            raise ProjectorError(
                f"projector '{self.name}': {self.group_option}={self._group}, expected an integer >= 1"
            )

    @property
    def _group(self) -> int:
        return int(getattr(self, self.group_option))

    def n_tokens_for(self, n_time: int) -> int:
        """One LLM token per started group of time steps."""
        return math.ceil(n_time / self._group)

    @property
    def tokens_per_second(self) -> float:
        """Encoder frame rate divided by the length of a group."""
        return self.frame_rate_hz / self._group


class Projector(nn.Module):
    """Base class: carries the config; subclasses map tokens to LLM embeddings.

    Attributes:
        centre: (D,), subtracted from every encoder token; None if `config.centred` is False.
        scale: (D,), then multiplied with every token; None if `config.scaled` is False.
    """

    config_class: ClassVar[type[ProjectorConfig]]
    centre: Tensor | None
    scale: Tensor | None

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.zeros(config.encoder_dim) if config.centred else None)
        self.register_buffer("scale", torch.ones(config.encoder_dim) if config.scaled else None)

    def __call__(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Subtract the centre and multiply by the scale, if they are set, and project; see `forward`."""
        if self.centre is not None:
            tokens = tokens - self.centre.to(tokens.device)
        if self.scale is not None:
            tokens = tokens * self.scale.to(tokens.device)
        projected: tuple[Tensor, Tensor] = super().__call__(tokens, mask, grid)
        return projected

    def centre_on(self, mean: Tensor, scale: Tensor | None = None) -> None:
        """Subtract a vector (D,) from every encoder token from now on, and multiply by a scale (D,) if one is given.

        Both are saved with the weights.
        """
        self.config = dataclasses.replace(self.config, centred=True, scaled=scale is not None)
        place = next(self.parameters(), mean)
        self.centre = mean.to(place.device, place.dtype)
        self.scale = None if scale is None else scale.to(place.device, place.dtype)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Project one batch.

        Args:
            tokens: (B, N, D) float, time-major, N = n_time * n_freq.
            mask: (B, N) bool, True where a token covers real audio.
            grid: (n_time, n_freq).

        Returns:
            Embeddings (B, M, llm_dim) and their mask (B, M) bool; a clip with t valid time steps has
            exactly `config.n_tokens_for(t)` True entries, first in time order.

        Raises:
            ProjectorError: If the grid does not fit the tokens or the config.
        """
        raise NotImplementedError

    def check(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> None:
        """Refuse tokens that do not fit the declared grid; nothing is clamped."""
        n_time, n_freq = grid
        if n_freq != self.config.n_freq or tokens.shape[1] != n_time * n_freq:
            raise ProjectorError(
                f"got {tokens.shape[1]} tokens with grid {grid}; expected n_time x {self.config.n_freq}"
            )
        if tokens.shape[-1] != self.config.encoder_dim or mask.shape != tokens.shape[:2]:
            raise ProjectorError(
                f"got tokens {tuple(tokens.shape)} and mask {tuple(mask.shape)}; expected width "
                f"{self.config.encoder_dim} and one mask entry per token"
            )


def stack_time(tokens: Tensor, mask: Tensor, grid: tuple[int, int], stack: int) -> tuple[Tensor, Tensor]:
    """Lay the frequency rows of `stack` neighbouring time steps side by side.

    Args:
        tokens: (B, N, D), time-major.
        mask: (B, N) bool.
        grid: (n_time, n_freq).
        stack: Time steps per output token.

    Returns:
        (B, M, stack * n_freq * D) with M = ceil(n_time / stack), and the mask (B, M): True where at least one
        stacked step is valid. Invalid steps are set to zero, so padding cannot leak into a valid token.
    """
    batch, _, width = tokens.shape
    n_time, n_freq = grid
    tokens = tokens.masked_fill(~mask[..., None], 0.0)
    valid = mask.view(batch, n_time, n_freq).any(-1)  # (B, T)
    steps = tokens.reshape(batch, n_time, n_freq * width)
    short = -n_time % stack
    if short:
        steps = nn.functional.pad(steps, (0, 0, 0, short))
        valid = nn.functional.pad(valid, (0, short))
    n_out = (n_time + short) // stack
    return steps.reshape(batch, n_out, stack * n_freq * width), valid.view(batch, n_out, stack).any(-1)


def mean_time(tokens: Tensor, mask: Tensor, grid: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Average the frequency rows of `stride` neighbouring time steps, over what is valid.

    Args:
        tokens: (B, N, D), time-major.
        mask: (B, N) bool.
        grid: (n_time, n_freq).
        stride: Time steps per output token.

    Returns:
        (B, M, D) with M = ceil(n_time / stride), and the mask (B, M): True where at least one step is valid.
    """
    n_time, n_freq = grid
    short = -n_time % stride * n_freq
    weights = nn.functional.pad(mask, (0, short)).unflatten(1, (-1, stride * n_freq))  # (B, M, stride * F)
    tokens = nn.functional.pad(tokens.masked_fill(~mask[..., None], 0.0), (0, 0, 0, short))
    total = tokens.unflatten(1, (-1, stride * n_freq)).sum(2)  # (B, M, D)
    return total / weights.sum(2, keepdim=True).clamp(min=1), weights.any(2)


def time_positions(n_time: int, width: int, device: torch.device | str) -> Tensor:
    """Sinusoidal positions (n_time, width) over encoder time steps (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-torch.log(torch.tensor(10000.0)) / width))
    angles = torch.arange(n_time, device=device)[:, None] * rates
    table = torch.zeros(n_time, width, device=device)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : width // 2]
    return table
