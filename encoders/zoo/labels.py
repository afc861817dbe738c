"""The `labels` control: an oracle that returns a clip's labels as word vectors, without using the audio.

It is an upper bound: a perfect encoder could give the language model the same labels. Clips are
identified by a hash of their samples and looked up in a table that `alm encoders labels` writes.
A clip that is not in the table is an error, never silence.
Axis letters: B batch, S samples, T time steps, D width.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import AudioError, ConfigError
from alm.common.json_text import read_json_object
from alm.common.seeds import seed_from
from encoders.base import AudioEncoder, AudioTokens, EncoderConfig, n_time_mask
from encoders.mel import frames_or_error

Events = list[tuple[float, float | None, str]]
"""(start_s, end_s, label); None is the end of the clip."""


@dataclass(frozen=True)
class LabelsConfig(EncoderConfig):
    """Where the labels are, and how they become tokens."""

    model_class: str = "LabelsEncoder"
    table: str = ""
    """JSON file of `alm encoders labels`."""
    embed_dim: int = 128
    step_s: float = 0.16
    """Seconds of a time step (AudioMosaic's)."""
    unknown: str = "error"
    """How to treat a clip that is not in the table: `error`, or `nothing` (no label; for contract tests)."""

    def __post_init__(self) -> None:
        if self.unknown not in ("error", "nothing"):
            raise ConfigError(f"unknown is {self.unknown!r}; expected error or nothing")
        if round(self.step_s * self.sample_rate) < 1:
            raise ConfigError(f"step_s is {self.step_s}; expected seconds of at least one sample")

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.embed_dim

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return 1

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second."""
        return 1 / self.step_s

    @property
    def clip_s(self) -> float:
        """One time step: a token depends on nothing outside it."""
        return self.step_s

    def n_time_for(self, n_samples: int) -> int:
        """Time steps that cover the clip, the last perhaps partly."""
        frames_or_error(n_samples, self.sample_rate)  # too short for every encoder
        return -(-n_samples // round(self.step_s * self.sample_rate))


class LabelsEncoder(AudioEncoder):
    """One token per time step: the sum over the sounds in it of their words' vectors; zeros in silence."""

    config: LabelsConfig
    config_class = LabelsConfig
    uses_audio = False
    licence = "-"
    n_parameters = 0

    def __init__(self, config: LabelsConfig | None = None) -> None:
        super().__init__(config or LabelsConfig())
        self._words: dict[str, Tensor] = {}

    @cached_property
    def table(self) -> dict[str, Events]:
        """Clip key to what is in the clip.

        Raises:
            ConfigError: No table is given, or it is not one.
        """
        if not self.config.table:
            if self.config.unknown == "nothing":
                return {}
            raise ConfigError(
                "encoder labels: no table given; make one with alm encoders labels and name it as table"
            )
        return read_label_table(self.config.table, self.config.sample_rate)

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Look a padded batch up; see `AudioEncoder.forward`.

        Raises:
            AudioError: A clip is not in the table.
        """
        n_time = self.check_lengths(lengths)
        tokens = torch.zeros(len(n_time), max(n_time, default=0), self.config.embed_dim)
        clips = waveform.detach().float().cpu().numpy()
        for row, n_samples in enumerate(lengths.tolist()):
            events = self.table.get(clip_key(clips[row, :n_samples]))
            if events is None and self.config.unknown == "error":
                raise AudioError(
                    f"clip {row} of the batch is not in {self.config.table}; make the table from the same files, at "
                    f"{self.config.sample_rate} Hz"
                )
            for start_s, end_s, label in events or ():
                first = int(start_s / self.config.step_s)
                last = n_time[row] if end_s is None else min(n_time[row], -int(-end_s // self.config.step_s))
                tokens[row, first:last] += self._vector(label)
        grid = (tokens.shape[1], 1)
        return AudioTokens(tokens.to(waveform.device), n_time_mask(n_time, grid, waveform.device), grid)

    def _vector(self, label: str) -> Tensor:
        """The mean of a label's words' vectors (D,)."""
        words = label.replace("_", " ").lower().split()
        return torch.stack([self._word(word) for word in words]).mean(dim=0)

    def _word(self, word: str) -> Tensor:
        if word not in self._words:
            generator = torch.Generator().manual_seed(seed_from(word, n_bytes=7))
            self._words[word] = torch.randn(self.config.embed_dim, generator=generator)
        return self._words[word]

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A small instance without a table; nothing in it is random."""
        return cls(LabelsConfig(embed_dim=16, unknown="nothing")).eval()


def clip_key(waveform: np.ndarray) -> str:
    """Hash of a clip's samples (S,) at 16 bits."""
    pcm = np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")
    return hashlib.sha256(pcm.tobytes()).hexdigest()


def read_label_table(path: str, sample_rate: int) -> dict[str, Events]:
    """Read what `alm encoders labels` wrote.

    Raises:
        ConfigError: Missing, not a label table, or made at another sample rate.
    """
    if not os.path.exists(path):
        raise ConfigError(f"{path}: no such file; make it with alm encoders labels")
    values = read_json_object(path, ConfigError)
    try:
        made_at, clips = values["sample_rate"], values["clips"]
        table = {key: [(start, end, str(name)) for start, end, name in clips[key]] for key in clips}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is not a label table ({error}); make it with alm encoders labels"
        ) from error
    if made_at != sample_rate:
        raise ConfigError(f"{path}: made at {made_at} Hz; expected {sample_rate}")
    return table


ENCODER = LabelsEncoder
