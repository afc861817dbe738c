"""Augmentation of recordings: random speed, frequency response and start time.

A model overfits to a few hundred repeated recordings; augmented copies represent their kinds better.
"""

from __future__ import annotations

import numpy as np

from alm.data.scenes.synthesis import SAMPLE_RATE, Waveform

_SPEED = (0.85, 1.18)  # pitch and tempo together, under three semitones
_EQ_KNOTS_HZ = (60.0, 250.0, 1000.0, 3000.0, 7500.0)
_EQ_DB = 8.0


def vary(wave: np.ndarray, rng: np.random.Generator, roll: bool = False) -> Waveform:
    """Play a recording at another speed and through another microphone.

    Args:
        wave: (S,) float32 at 16 kHz.
        rng: The only source of randomness.
        roll: Also apply a random circular shift in time, with probability 0.5.

    Returns:
        (S',) float32; S' is shorter or longer by the speed.
    """
    speed = float(np.exp(rng.uniform(*np.log(_SPEED))))
    out = np.interp(np.arange(int(len(wave) / speed)) * speed, np.arange(len(wave)), wave)
    hz = np.fft.rfftfreq(len(out), 1 / SAMPLE_RATE)
    gains_db = rng.uniform(-_EQ_DB, _EQ_DB, len(_EQ_KNOTS_HZ))
    curve_db = np.interp(np.log(np.maximum(hz, 1.0)), np.log(_EQ_KNOTS_HZ), gains_db)
    out = np.fft.irfft(np.fft.rfft(out) * 10 ** (curve_db / 20), len(out))
    if roll and rng.random() < 0.5:
        out = np.roll(out, int(rng.integers(len(out))))
    return out.astype(np.float32)
