"""Mel power from a centred short-time Fourier transform, batched, with the filters of `transformers`.

Axis letters: B batch, S samples, F frames, K frequency bins, M mels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class StftMel:
    """Mel power spectrogram equal to `transformers.audio_utils.spectrogram` (centred, reflected ends, hann).

    Runs in float32 regardless of autocast. Not a module, no buffers: casting a model does not change it.
    """

    def __init__(self, n_fft: int, hop_samples: int, **filters: Any) -> None:
        """`filters` are the arguments of `transformers.audio_utils.mel_filter_bank`."""
        self.n_fft = n_fft
        self.hop_samples = hop_samples
        self.filters = filters
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, waveform: Tensor) -> Tensor:
        """Mel power (B, 1 + S // hop, M) of (B, S)."""
        window, banks = self._constants_on(waveform.device)
        with torch.autocast(waveform.device.type, enabled=False):
            # (B, K, F)
            spectrum = torch.stft(
                waveform.float(), self.n_fft, self.hop_samples, window=window, return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            return power.transpose(1, 2) @ banks

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            from transformers.audio_utils import mel_filter_bank

            banks = mel_filter_bank(num_frequency_bins=1 + self.n_fft // 2, **self.filters)  # (K, M)
            self._constants[device] = (
                torch.hann_window(self.n_fft, device=device),
                torch.from_numpy(banks).float().to(device),
            )
        return self._constants[device]
