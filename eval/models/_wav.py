"""Waveforms as wav files in base64, as APIs take them."""

import base64
import io

import numpy as np
import soundfile


def base64_wav(waveform: np.ndarray, sample_rate: int, *, exact: bool = False) -> str:
    """A mono wav file in base64.

    Args:
        waveform: (S,) float32.
        sample_rate: Rate in Hz.
        exact: Write 32-bit float samples, which not every server reads; otherwise 16-bit integers, where samples
            beyond full scale are clipped. A 16-bit recording that was not resampled is kept exactly in both.
    """
    content = io.BytesIO()
    if exact:
        soundfile.write(content, waveform, sample_rate, subtype="FLOAT", format="WAV")
    else:
        samples = np.clip(np.rint(waveform.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
        soundfile.write(content, samples, sample_rate, subtype="PCM_16", format="WAV")
    return base64.b64encode(content.getvalue()).decode("ascii")
