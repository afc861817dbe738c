"""Parametric synthesis of the generated sound events: one function per kind.

Each function takes a random generator and a length in samples and returns that many samples at 16 kHz, at any
level. Within a kind, pitch, rate, timbre and envelope vary widely; what makes the kind recognisable (the
direction of a sweep, the regularity of clicks, the band of a noise) never does.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

SAMPLE_RATE = 16000

Waveform = NDArray[np.float32]
Array = NDArray[np.float64]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _time_s(n_samples: int) -> Array:
    return np.arange(n_samples) / SAMPLE_RATE


def _oscillate(freq_hz: Array | float, n_samples: int, phase: float = 0.0) -> Array:
    """A sine whose frequency follows `freq_hz` (a number, or one value per sample)."""
    steps = np.broadcast_to(np.asarray(freq_hz, dtype=np.float64), (n_samples,))
    return np.sin(phase + 2 * np.pi * np.cumsum(steps) / SAMPLE_RATE)


def _harmonics(freq_hz: Array | float, n_samples: int, weights: NDArray[np.floating]) -> Array:
    """A sum of harmonics of `freq_hz` up to 7.5 kHz."""
    top_hz = float(np.max(freq_hz))
    steps = np.broadcast_to(np.asarray(freq_hz, dtype=np.float64), (n_samples,))
    phase = 2 * np.pi * np.cumsum(steps) / SAMPLE_RATE
    wave = np.zeros(n_samples)
    for number, weight in enumerate(weights, start=1):
        if number * top_hz < 7500:
            wave += weight * np.sin(number * (phase + 1))
    return wave


def _fade(wave: Array, attack_s: float, release_s: float) -> Array:
    """Raised-cosine attack and release."""
    wave = wave.copy()
    for seconds, end in ((attack_s, False), (release_s, True)):
        n_samples = min(int(seconds * SAMPLE_RATE), len(wave))
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(n_samples) / max(n_samples, 1))
        if end and n_samples:
            wave[-n_samples:] *= ramp[::-1]
        else:
            wave[:n_samples] *= ramp
    return wave


def _band(wave: Array, low_hz: float | None, high_hz: float | None, order: int = 2) -> Array:
    """Butterworth band-, low- or high-pass."""
    if low_hz is None:
        sos = butter(order, high_hz, "lowpass", fs=SAMPLE_RATE, output="sos")
    elif high_hz is None:
        sos = butter(order, low_hz, "highpass", fs=SAMPLE_RATE, output="sos")
    else:
        sos = butter(order, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    filtered: Array = sosfilt(sos, wave)
    return filtered


def _pulses(onsets_s: Array, gains: Array, grain: Array, n_samples: int) -> Array:
    """The same grain at several times."""
    train = np.zeros(n_samples)
    positions = (np.asarray(onsets_s) * SAMPLE_RATE).astype(int)
    inside = positions < n_samples
    np.add.at(train, positions[inside], np.asarray(gains)[inside])
    convolved: Array = fftconvolve(train, grain)
    return convolved[:n_samples]


def _regular(rng: np.random.Generator, n_samples: int, rate_hz: float, jitter: float = 0.03) -> Array:
    """Onset times, in seconds, of a regular repetition."""
    period_s = 1.0 / rate_hz
    onsets = np.arange(0.0, n_samples / SAMPLE_RATE - 0.5 * period_s, period_s)
    return np.maximum(onsets + rng.normal(0.0, jitter * period_s, len(onsets)), 0.0)


def _smooth_noise(rng: np.random.Generator, n_samples: int, rate_hz: float) -> Array:
    """A slow random curve between about -1 and 1."""
    n_knots = max(int(n_samples / SAMPLE_RATE * rate_hz) + 3, 4)
    return np.interp(np.linspace(0, n_knots - 1, n_samples), np.arange(n_knots), rng.uniform(-1, 1, n_knots))


def tone(rng: np.random.Generator, n_samples: int) -> Array:
    """A steady tone, nearly pure."""
    weights = np.array([1.0, rng.uniform(0, 0.15)])
    wave = _harmonics(_log_uniform(rng, 350, 1900), n_samples, weights)
    return _fade(wave, rng.uniform(0.01, 0.08), rng.uniform(0.02, 0.15))


def _sweep(rng: np.random.Generator, n_samples: int) -> Array:
    """Instantaneous frequency of an upward sweep by a factor of 3 to 8."""
    low_hz = _log_uniform(rng, 250, 800)
    position = np.linspace(0, 1, n_samples) ** rng.uniform(0.8, 1.4)
    return low_hz * rng.uniform(3.0, 8.0) ** position


def rising_chirp(rng: np.random.Generator, n_samples: int) -> Array:
    """One sweep upwards."""
    wave = _harmonics(_sweep(rng, n_samples), n_samples, np.array([1.0, rng.uniform(0, 0.25)]))
    return _fade(wave, 0.02, 0.05)


def falling_chirp(rng: np.random.Generator, n_samples: int) -> Array:
    """One sweep downwards."""
    wave = _harmonics(_sweep(rng, n_samples)[::-1], n_samples, np.array([1.0, rng.uniform(0, 0.25)]))
    return _fade(wave, 0.02, 0.05)


def siren(rng: np.random.Generator, n_samples: int) -> Array:
    """A wail: frequency swinging up and down several times."""
    swing = np.sin(2 * np.pi * rng.uniform(3.0, 5.5) * _time_s(n_samples) + rng.uniform(0, 2 * np.pi))
    freq_hz = _log_uniform(rng, 700, 1300) * rng.uniform(1.35, 1.7) ** swing
    wave = _harmonics(freq_hz, n_samples, np.array([1.0, rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.4)]))
    return _fade(wave, 0.03, 0.05)


def bell(rng: np.random.Generator, n_samples: int) -> Array:
    """One stroke of a bell: inharmonic partials that die away."""
    base_hz = _log_uniform(rng, 450, 1100)
    # Partials of a church bell relative to the prime (Rossing, "The Physics of Musical Instruments", ch. 21).
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.6, 3.0, 4.1, 5.4]) * rng.uniform(0.985, 1.015, 9)
    time_s, decay_s = _time_s(n_samples), rng.uniform(0.25, 0.6)
    wave = np.zeros(n_samples)
    for ratio in ratios[ratios * base_hz < 7500]:
        envelope = np.exp(-time_s * (0.6 + 0.4 * ratio) / decay_s)
        wave += rng.uniform(0.4, 1.0) * envelope * np.sin(2 * np.pi * ratio * base_hz * time_s)
    return _fade(wave, 0.002, 0.03)


def click_train(rng: np.random.Generator, n_samples: int) -> Array:
    """Short broad-band clicks at a regular rate."""
    grain = rng.normal(size=int(rng.uniform(0.002, 0.005) * SAMPLE_RATE))
    grain = np.concatenate([_band(grain * np.hanning(len(grain)), 700, None), np.zeros(16)])
    onsets = _regular(rng, n_samples, rng.uniform(9, 18))
    return _pulses(onsets, rng.uniform(0.8, 1.0, len(onsets)), grain, n_samples)


def drum(rng: np.random.Generator, n_samples: int) -> Array:
    """A short roll on a low drum: falling thumps with a skin noise."""
    n_grain = int(0.22 * SAMPLE_RATE)
    time_s = _time_s(n_grain)
    freq_hz = rng.uniform(60, 110) * (1 + rng.uniform(0.8, 1.6) * np.exp(-time_s / 0.03))
    grain = _oscillate(freq_hz, n_grain) * np.exp(-time_s / rng.uniform(0.05, 0.09))
    grain += 0.25 * _band(rng.normal(size=n_grain), None, 1200) * np.exp(-time_s / 0.012)
    onsets = _regular(rng, n_samples, rng.uniform(4.5, 8.0), jitter=0.06)
    return _fade(_pulses(onsets, rng.uniform(0.7, 1.0, len(onsets)), grain, n_samples), 0.0, 0.03)


def engine_hum(rng: np.random.Generator, n_samples: int) -> Array:
    """A motor: many low harmonics, unsteady in pitch and level."""
    freq_hz = _log_uniform(rng, 70, 140) * (1 + 0.04 * _smooth_noise(rng, n_samples, 6))
    weights = np.arange(1, 16) ** -rng.uniform(0.6, 1.0) * rng.uniform(0.5, 1.0, 15)
    wave = _harmonics(freq_hz, n_samples, weights)
    flutter = 1 + rng.uniform(0.15, 0.4) * np.sin(2 * np.pi * rng.uniform(14, 26) * _time_s(n_samples))
    return _fade(_band(wave * flutter, None, rng.uniform(900, 1600)), 0.06, 0.08)


def noise_burst(rng: np.random.Generator, n_samples: int) -> Array:
    """Flat broad-band noise with sharp edges."""
    return _fade(rng.normal(size=n_samples), rng.uniform(0.002, 0.01), rng.uniform(0.002, 0.02))


def rain(rng: np.random.Generator, n_samples: int) -> Array:
    """Dense drops: short bright grains at random times over a faint high hiss."""
    wave = np.zeros(n_samples)
    n_grain = int(0.012 * SAMPLE_RATE)
    envelope = np.exp(-_time_s(n_grain) / rng.uniform(0.001, 0.002))
    duration_s = n_samples / SAMPLE_RATE
    rate_hz = rng.uniform(25, 50)
    for centre_hz in rng.uniform(3500, 7000, 6):
        n_drops = max(int(rate_hz * duration_s), 1)
        grain = np.sin(2 * np.pi * centre_hz * _time_s(n_grain)) * envelope
        gains = rng.exponential(0.6, n_drops) * rng.choice((-1.0, 1.0), n_drops)
        wave += _pulses(rng.uniform(0, duration_s, n_drops), gains, grain, n_samples)
    hiss = _band(rng.normal(size=n_samples), 3000, None)
    return _fade(wave + 0.04 * hiss, 0.08, 0.1)


def bird(rng: np.random.Generator, n_samples: int) -> Array:
    """Quick tweets: short strong frequency arcs high up."""
    n_grain = int(rng.uniform(0.05, 0.09) * SAMPLE_RATE)
    arc = np.sin(np.linspace(0, np.pi * rng.uniform(1.0, 1.6), n_grain))
    freq_hz = rng.uniform(2600, 4200) * (1 + rng.uniform(0.3, 0.6) * arc)
    grain = _oscillate(freq_hz, n_grain) * np.hanning(n_grain)
    onsets = _regular(rng, n_samples, rng.uniform(5.5, 9.0), jitter=0.08)
    return _pulses(onsets, rng.uniform(0.6, 1.0, len(onsets)), grain, n_samples)


def alarm(rng: np.random.Generator, n_samples: int) -> Array:
    """An electronic beeper: a bright steady pitch switched on and off."""
    wave = _harmonics(_log_uniform(rng, 900, 1700), n_samples, np.array([1.0, 0.2, 0.6, 0.1, 0.35]))
    phase = (_time_s(n_samples) * rng.uniform(5.0, 8.0)) % 1.0
    gate = np.clip(np.minimum(phase, rng.uniform(0.45, 0.6) - phase) / 0.03, 0, 1)
    return wave * gate


def bubbles(rng: np.random.Generator, n_samples: int) -> Array:
    """Bubbles rising in water: short decaying blips that climb in pitch, at random times."""
    wave = np.zeros(n_samples)
    n_grain = int(0.06 * SAMPLE_RATE)
    time_s, duration_s = _time_s(n_grain), n_samples / SAMPLE_RATE
    n_blips = max(int(rng.uniform(14, 24) * duration_s / 4), 1)
    for centre_hz in rng.uniform(450, 1300, 4):
        # A rising blip, after van den Doel, "Physically based models for liquid sounds" (2005).
        grain = _oscillate(centre_hz * (1 + 12 * time_s), n_grain) * np.exp(-time_s / 0.014)
        wave += _pulses(
            rng.uniform(0, duration_s - 0.03, n_blips), rng.uniform(0.4, 1, n_blips), grain, n_samples
        )
    return _fade(wave, 0.0, 0.03)


def wind(rng: np.random.Generator, n_samples: int) -> Array:
    """A gust: low noise that swells and howls slowly."""
    noise = rng.normal(size=n_samples)
    centre_hz = _log_uniform(rng, 250, 500)
    low = _band(noise, 0.75 * centre_hz, 1.3 * centre_hz)
    high = _band(noise, 1.3 * centre_hz, 2.2 * centre_hz)
    blend = 0.5 + 0.5 * _smooth_noise(rng, n_samples, 4)
    return _fade(
        (1 - blend) * low + blend * high, 0.3 * n_samples / SAMPLE_RATE, 0.3 * n_samples / SAMPLE_RATE
    )


def horn(rng: np.random.Generator, n_samples: int) -> Array:
    """A car horn: two bright notes held together."""
    base_hz = _log_uniform(rng, 280, 480)
    weights = np.arange(1, 15) ** -rng.uniform(0.3, 0.7)
    wave = _harmonics(base_hz, n_samples, weights) + _harmonics(
        base_hz * rng.uniform(1.2, 1.3), n_samples, weights
    )
    return _fade(wave, rng.uniform(0.01, 0.04), rng.uniform(0.03, 0.08))


def cricket(rng: np.random.Generator, n_samples: int) -> Array:
    """A very high steady pitch, chopped fast."""
    carrier = _oscillate(rng.uniform(4800, 6600), n_samples)
    time_s = _time_s(n_samples)
    pulse = np.clip(np.sin(2 * np.pi * rng.uniform(28, 42) * time_s), 0, None)
    phrase = np.clip(0.7 + np.sin(2 * np.pi * rng.uniform(2.5, 4.0) * time_s + rng.uniform(0, 6)), 0, 1)
    return _fade(carrier * pulse * phrase, 0.02, 0.05)


SYNTHESIZERS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    function.__name__: function
    for function in (
        tone,
        rising_chirp,
        falling_chirp,
        siren,
        bell,
        click_train,
        drum,
        engine_hum,
        noise_burst,
        rain,
        bird,
        alarm,
        bubbles,
        wind,
        horn,
        cricket,
    )
}
"""The generated kinds, by name."""
