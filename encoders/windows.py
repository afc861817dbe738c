"""Base classes of encoders that process one window of fixed length at a time: cut clips, stitch tokens.

Axis letters: B batch, S samples, W windows of a clip, T time steps of a window, F frequency steps, P prefix
tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alm.common.errors import AudioError
from encoders.base import AudioEncoder, AudioTokens, EncoderConfig, n_time_mask

EncodeWindows = Callable[[Tensor, list[int]], list[tuple[Tensor, Tensor | None]]]


@dataclass(frozen=True)
class WindowedConfig(EncoderConfig):
    """A window covers `window_samples`; the next one starts `hop_samples` later and continues its time steps.

    Windows overlap (the hop is the smaller one) if a time step covers more samples than the distance to the next step.
    The overlap keeps the time steps of a long clip evenly spaced.
    """

    @property
    @abstractmethod
    def window_samples(self) -> int:
        """Samples a window can hold."""

    @property
    @abstractmethod
    def hop_samples(self) -> int:
        """Samples from the start of one window to the start of the next."""

    @property
    @abstractmethod
    def steps_per_window(self) -> int:
        """Time steps of a full window."""

    @abstractmethod
    def steps_in(self, n_samples: int) -> int:
        """Valid time steps of a piece that fits into one window; 0 if it is too short for one."""

    def weight_of(self, n_samples: int) -> int:
        """Weight of a piece of a clip in the mean of the clip's window features: its number of time steps."""
        return self.steps_in(n_samples)

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second."""
        return self.steps_per_window * self.sample_rate / self.hop_samples

    @property
    def clip_s(self) -> float:
        """Seconds from one window to the next."""
        return self.hop_samples / self.sample_rate

    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a whole clip."""
        further = max(0, -(-(n_samples - self.window_samples) // self.hop_samples))  # windows after the first
        steps = further * self.steps_per_window + self.steps_in(n_samples - further * self.hop_samples)
        if steps < 1:
            raise AudioError(
                f"clip of {n_samples} samples ({1000 * n_samples / self.sample_rate:.1f} ms) is too short for one "
                "time step of the encoder; remove it or give a longer one"
            )
        return steps


class WindowedEncoder(AudioEncoder):
    """An encoder that implements `encode_windows`; cutting, stitching and masks are done here."""

    config: WindowedConfig

    max_windows_per_pass = 32
    """Windows encoded at once; limits memory for long clips and big batches."""

    @abstractmethod
    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
        """Encode windows, each on its own.

        Args:
            waveform: (B, S) float32, S the longest window of the batch, zeros after the end of each.
            lengths: B lengths in samples.

        Returns:
            tokens (B, T, F, D), T at most `steps_per_window`, and prefix tokens (B, P, D) or None.
        """

    def encode_window_layers(
        self, waveform: Tensor, lengths: list[int]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Like `encode_windows`, for every layer; see `AudioEncoder.forward_layers`.

        Raises:
            ConfigError: The encoder does not offer its layers.
        """
        raise self._no_layers()

    def window_features(self, tokens: Tensor, prefix: Tensor | None) -> Tensor | None:
        """The encoder's own feature of each window; a clip's feature is their mean, weighted by `weight_of`.

        Args:
            tokens: (B, T, F, D), as `encode_windows` returns them.
            prefix: (B, P, D) or None, likewise.

        Returns:
            (B, D'), or None where the encoder has no feature of its own.
        """
        return None

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Encode a padded batch; see `AudioEncoder.forward`. Prefix (B, W * P, D): each window's in turn."""
        return self._over_windows(waveform, lengths, lambda *piece: [self.encode_windows(*piece)])[0]

    def forward_layers(self, waveform: Tensor, lengths: Tensor) -> list[AudioTokens]:
        """Encode a padded batch and keep every layer; see `AudioEncoder.forward_layers`."""
        if self.n_layers is None:
            raise self._no_layers()
        return self._over_windows(waveform, lengths, self.encode_window_layers)

    def _over_windows(self, waveform: Tensor, lengths: Tensor, encode: EncodeWindows) -> list[AudioTokens]:
        """Cut clips into windows, encode `max_windows_per_pass` at a time, and stitch each layer of the output."""
        config, n_time = self.config, self.check_lengths(lengths)
        pieces = []  # (clip, window, samples)
        for row, (steps, n_samples) in enumerate(zip(n_time, lengths.tolist(), strict=True)):
            for index in range(-(-steps // config.steps_per_window)):
                size = min(n_samples - index * config.hop_samples, config.window_samples)
                pieces.append((row, index, size))
        passes = [
            encode(*self._windows(waveform, pieces[start : start + self.max_windows_per_pass]))
            for start in range(0, len(pieces), self.max_windows_per_pass)
        ]
        if not pieces:
            empty = waveform.new_zeros(len(n_time), 0, config.dim)
            return [AudioTokens(empty, empty[..., 0].bool(), (0, config.n_freq))]
        return [self._stitch(list(layer), pieces, n_time) for layer in zip(*passes, strict=True)]

    def _stitch(
        self, made: list[tuple[Tensor, Tensor | None]], pieces: list[tuple[int, int, int]], n_time: list[int]
    ) -> AudioTokens:
        """Tokens and prefixes of windows, in the order of `pieces` (clip, window, samples), as those of clips."""
        config = self.config
        per_window = config.steps_per_window
        tokens = [torch.nn.functional.pad(t, (0, 0, 0, 0, 0, per_window - t.shape[1])) for t, _ in made]
        prefix = [extra for _, extra in made if extra is not None]
        device = tokens[0].device
        rows = torch.tensor([row for row, _, _ in pieces], device=device)
        places = torch.tensor([index for _, index, _ in pieces], device=device)
        n_windows = 1 + max(index for _, index, _ in pieces)
        encoded = torch.cat(tokens)  # (pieces, T, F, D)
        stitched = encoded.new_zeros(len(n_time), n_windows, *encoded.shape[1:])
        stitched[rows, places] = encoded
        self.check_finite(stitched)
        grid = (max(n_time), config.n_freq)
        mask = n_time_mask(n_time, grid, device)
        flat = stitched.flatten(1, 3)[:, : mask.shape[1]] * mask[..., None]  # (B, n_time * n_freq, D)
        out = AudioTokens(flat, mask, grid)
        if prefix:
            extra = torch.cat(prefix)  # (pieces, P, D)
            kept = extra.new_zeros(len(n_time), n_windows, *extra.shape[1:])
            kept[rows, places] = extra
            out.prefix = kept.flatten(1, 2)
        features = [self.window_features(*window) for window in made]
        own = [feature for feature in features if feature is not None]  # each (pieces of a pass, D')
        if own:
            features_of = torch.cat(own)  # (pieces, D')
            spread = features_of.new_zeros(len(n_time), n_windows, features_of.shape[1])
            spread[rows, places] = features_of
            weights = torch.zeros(len(n_time), n_windows, dtype=torch.int64, device=device)
            weights[rows, places] = torch.tensor([config.weight_of(n) for _, _, n in pieces], device=device)
            share = weights / weights.sum(dim=1, keepdim=True)  # (B, W)
            out.pooled = (spread * share.to(spread.dtype)[..., None]).sum(dim=1)
        return out

    def _windows(self, waveform: Tensor, pieces: list[tuple[int, int, int]]) -> tuple[Tensor, list[int]]:
        """The windows of some pieces, with zeros after the end of each, and their lengths."""
        longest = max(size for _, _, size in pieces)
        windows = waveform.new_zeros(len(pieces), longest, dtype=torch.float32)
        for window, (row, index, size) in zip(windows, pieces, strict=True):
            start = index * self.config.hop_samples
            window[:size] = waveform[row, start : start + size]
        return windows, [size for _, _, size in pieces]


def equal_groups(values: list[int], device: torch.device) -> list[tuple[int, Tensor]]:
    """Group rows by value, for models that must not see padding: (value, rows) in order of value."""
    return [
        (value, torch.tensor([row for row, other in enumerate(values) if other == value], device=device))
        for value in sorted(set(values))
    ]
