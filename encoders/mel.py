"""The kaldi log-mel filter bank, batched.

Axis letters: B batch, S samples, F frames, K frequency bins, M mels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alm.common.errors import AudioError

# Kaldi's defaults as AudioMosaic's training code leaves them (torchaudio.compliance.kaldi.fbank).
_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
_FRAME_LENGTH_MS = 25.0
# Power is floored here before the logarithm (kaldi: float32 epsilon).
LOG_FLOOR = math.log(torch.finfo(torch.float32).eps)
# Frames worked on at once: small enough for the CPU caches, large enough to fill an accelerator.
_FRAMES_PER_PASS_CPU = 2048
_FRAMES_PER_PASS_DEVICE = 1 << 18


def n_frames_for(n_samples: int, sample_rate: int, frame_shift_ms: float = 10.0) -> int:
    """Number of whole 25 ms frames in a clip; 0 where it is shorter than one."""
    window, shift = _ms_to_samples(_FRAME_LENGTH_MS, sample_rate), _ms_to_samples(frame_shift_ms, sample_rate)
    return 0 if n_samples < window else 1 + (n_samples - window) // shift


def frames_or_error(n_samples: int, sample_rate: int, frame_shift_ms: float = 10.0) -> int:
    """Number of frames in a clip.

    Raises:
        AudioError: Shorter than one frame.
    """
    if frames := n_frames_for(n_samples, sample_rate, frame_shift_ms):
        return frames
    raise AudioError(
        f"clip of {n_samples} samples ({1000 * n_samples / sample_rate:.1f} ms) is shorter than one "
        f"{_FRAME_LENGTH_MS:.0f} ms frame; remove it or give a longer one"
    )


class KaldiFbank(nn.Module):
    """Log-mel energies equal to `torchaudio.compliance.kaldi.fbank`, for a padded batch at once.

    25 ms `hanning` (symmetric) windows, power spectrum, htk-compatible mel triangles from 20 Hz to Nyquist,
    no dither, DC removed per frame, pre-emphasis 0.97, snip_edges. Taking a clip's mean off first, as the
    training code does, changes nothing here: every frame loses its own mean anyway, and no frame crosses the
    end of its clip. Runs in float32 whatever the autocast state or the dtype the model was cast to: its
    constants are no buffers, so casting or meta-device loading cannot touch them.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 128,
        frame_shift_ms: float = 10.0,
        window_exponent: float = 1.0,
    ) -> None:
        """`window_exponent` 0.85 makes the window kaldi's own `povey`."""
        super().__init__()
        self.window_exponent = window_exponent
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.frame_shift_ms = frame_shift_ms
        self.window_samples = _ms_to_samples(_FRAME_LENGTH_MS, sample_rate)
        self.shift_samples = _ms_to_samples(frame_shift_ms, sample_rate)
        self.fft_samples = 1 << (self.window_samples - 1).bit_length()
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def n_frames_for(self, n_samples: int) -> int:
        """Number of frames of a clip of `n_samples`; 0 where it is shorter than one frame."""
        return n_frames_for(n_samples, self.sample_rate, self.frame_shift_ms)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-mel energies of a padded batch.

        Args:
            waveform: (B, S) float in [-1, 1]; samples past a clip's length are ignored.
            lengths: (B,) samples of each clip.

        Returns:
            mel (B, F, M) float32, F that of the longest clip, zeros past each clip's frames; and n_frames
            (B,) int64 on the lengths' device.
        """
        counts = [self.n_frames_for(n) for n in lengths.tolist()]
        n_frames = torch.tensor(counts, dtype=torch.int64, device=lengths.device)
        longest = max(counts, default=0)
        mel = waveform.new_zeros((len(counts), longest, self.n_mels), dtype=torch.float32)
        if not longest:
            return mel, n_frames
        with torch.autocast(waveform.device.type, enabled=False):
            real = torch.arange(longest, device=mel.device)[None] < n_frames.to(mel.device)[:, None]  # (B, F)
            frames = waveform.float().unfold(1, self.window_samples, self.shift_samples)  # (B, F', window)
            mel[real] = self._log_mel(frames, real)
        return mel, n_frames

    def _log_mel(self, frames: Tensor, real: Tensor) -> Tensor:
        """Log-mel of the real frames only: frames (B, F, window), real (B, F) -> (n_real, M)."""
        window, banks = self._constants_on(frames.device)
        per_pass = _FRAMES_PER_PASS_CPU if frames.device.type == "cpu" else _FRAMES_PER_PASS_DEVICE
        clip, frame = real.nonzero(as_tuple=True)
        out = frames.new_empty((len(clip), self.n_mels))
        for start in range(0, len(clip), per_pass):
            part = slice(start, start + per_pass)
            block = frames[clip[part], frame[part]]  # (n, window)
            block -= block.mean(dim=1, keepdim=True)
            emphasised = torch.empty_like(block)
            torch.sub(block[:, 1:], block[:, :-1], alpha=_PREEMPHASIS, out=emphasised[:, 1:])
            torch.mul(block[:, :1], 1.0 - _PREEMPHASIS, out=emphasised[:, :1])  # x[-1] = x[0]
            emphasised *= window
            spectrum = torch.fft.rfft(emphasised, n=self.fft_samples)  # (n, K)
            power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
            out[part] = (power @ banks).clamp_(min=torch.finfo(torch.float32).eps).log_()
        return out

    def edges_hz(self) -> Tensor:
        """Corners of the mel triangles (M + 2,) in Hz, float32: left end, the M centres, right end."""
        return mel_to_hz(self._edges_mel()).float()

    def _edges_mel(self) -> Tensor:
        """The corners on the mel scale, evenly spaced."""
        low, high = hz_to_mel(torch.tensor([_LOW_HZ, self.sample_rate / 2], dtype=torch.float64)).tolist()
        return torch.linspace(low, high, self.n_mels + 2, dtype=torch.float64)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            window = torch.hann_window(self.window_samples, periodic=False).pow(self.window_exponent)
            self._constants[device] = (window.to(device), self._mel_banks().to(device))
        return self._constants[device]

    def _mel_banks(self) -> Tensor:
        """Triangular filters (K, M), kaldi's mel scale: 1127 ln(1 + f / 700)."""
        n_bins = self.fft_samples // 2
        edges = self._edges_mel()
        bins = hz_to_mel(torch.arange(n_bins, dtype=torch.float64) * self.sample_rate / self.fft_samples)
        up = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
        down = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
        banks = torch.minimum(up, down).clamp(min=0.0)
        return nn.functional.pad(banks, (0, 0, 0, 1)).float()  # kaldi leaves the Nyquist bin out


def _ms_to_samples(ms: float, sample_rate: int) -> int:
    return int(sample_rate * ms / 1000)  # rounded down, as kaldi does


def hz_to_mel(hz: Tensor) -> Tensor:
    """Kaldi's mel scale of a frequency in Hz."""
    return 1127.0 * torch.log1p(hz / 700.0)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Frequency in Hz of a place on kaldi's mel scale."""
    return 700.0 * torch.expm1(mel / 1127.0)
