"""The `logmel` control: patch averages of a log-mel under the encoder contract, nothing learned.

A useful trained encoder must score higher than it. Axis letters: B batch, S samples, N tokens, D width, M mels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from alm.common.errors import ConfigError
from encoders.base import AudioEncoder, AudioTokens, EncoderConfig, n_time_mask
from encoders.mel import KaldiFbank, frames_or_error

# AudioSet's log-mel statistics, used as AudioMosaic's training uses them, so both see equal numbers.
_MEAN, _DIVISOR = -4.2677393, 2 * 4.5689974
_SHIFT_MS = 10.0


@dataclass(frozen=True)
class LogMelConfig(EncoderConfig):
    """Front end and patch size."""

    model_class: str = "LogMelEncoder"
    n_mels: int = 128
    patch_size: tuple[int, int] = (16, 16)
    """(frames, mels) averaged over frames into one token."""

    def __post_init__(self) -> None:
        frames, mels = self.patch_size
        if frames < 1 or mels < 1 or self.n_mels % mels:
            raise ConfigError(
                f"patch_size is {self.patch_size}; expected (frames, mels) with n_mels "
                f"({self.n_mels}) in whole patches"
            )

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.n_mels

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return self.n_mels // self.patch_size[1]

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second."""
        return 1000 / (_SHIFT_MS * self.patch_size[0])

    @property
    def clip_s(self) -> float:
        """One time step: a token depends on nothing outside it."""
        return self.patch_size[0] * _SHIFT_MS / 1000

    def fbank(self) -> KaldiFbank:
        """The front end."""
        return KaldiFbank(self.sample_rate, self.n_mels, _SHIFT_MS)

    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a clip: its frames in patches, the last one perhaps partly filled."""
        return -(-frames_or_error(n_samples, self.sample_rate, _SHIFT_MS) // self.patch_size[0])


class LogMelEncoder(AudioEncoder):
    """Normalised log-mel, averaged over the frames of a patch.

    Token (t, f) carries the mels of band f in their own places and zeros elsewhere, so a projector that sums
    or averages over frequency still sees the whole spectrum.
    """

    config: LogMelConfig
    config_class = LogMelConfig
    licence = "-"
    n_parameters = 0

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__(config or LogMelConfig())
        self.fbank = self.config.fbank()

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Encode a padded batch; see `AudioEncoder.forward`."""
        n_time = self.check_lengths(lengths)
        mel, n_frames = self.fbank(waveform, lengths)  # (B, frames, M)
        self.check_finite(mel)
        per_step, per_band = self.config.patch_size
        grid = (max(n_time, default=0), self.config.n_freq)
        real = torch.arange(mel.shape[1], device=mel.device)[None] < n_frames.to(mel.device)[:, None]
        centred = (mel - _MEAN) / _DIVISOR * real[..., None]
        missing = grid[0] * per_step - mel.shape[1]
        summed = functional.pad(centred, (0, 0, 0, missing)).unflatten(1, (grid[0], per_step)).sum(2)
        counts = functional.pad(real, (0, missing)).unflatten(1, (grid[0], per_step)).sum(2)  # (B, n_time)
        means = summed / counts.clamp(min=1)[..., None]  # (B, n_time, M)
        band = torch.arange(self.config.n_mels, device=mel.device) // per_band
        own = band[None] == torch.arange(grid[1], device=mel.device)[:, None]  # (n_freq, M)
        tokens = (means[:, :, None] * own).flatten(1, 2)  # (B, n_time * n_freq, M)
        return AudioTokens(tokens, n_time_mask(n_time, grid, mel.device), grid)

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A small instance; nothing in it is random."""
        return cls(LogMelConfig(n_mels=32, patch_size=(8, 16))).eval()


ENCODER = LogMelEncoder
