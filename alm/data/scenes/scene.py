"""Scenes: which sound starts when, how long and how loud, and their mixing into one waveform."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alm.data.scenes.events import EventBank, Rendered
from alm.data.scenes.synthesis import SAMPLE_RATE, Waveform

# Share of longer scenes that repeat a kind; else the answer to "how many bells" is always one.
_REPEAT_SHARE = 0.4
_OVERLAP_SHARE = 0.25  # share of neighbouring events of different kinds that overlap
_LONGEST_OVERLAP_S = 0.3  # shorter than the shortest event, so onsets keep their order
_SHORTEST_GAP_S = 0.08
_REPEAT_GAP_S = 0.7  # a model whose time steps last 0.64 s would hear two closer bells as one
_QUIETEST_DB = -8.0
_BACKGROUND_DBFS = (-68.0, -52.0)


@dataclass(frozen=True)
class SceneEvent:
    """One sound in a scene.

    Attributes:
        kind: Its kind.
        onset_s: When it starts, in seconds from the scene's start.
        duration_s: How long it lasts, in seconds.
        gain_db: Its level relative to a full event.
        source: The recording it was cut from; None for generated events and before rendering.
    """

    kind: str
    onset_s: float
    duration_s: float
    gain_db: float = 0.0
    source: str | None = None

    @property
    def end_s(self) -> float:
        """When it stops, in seconds."""
        return self.onset_s + self.duration_s


@dataclass(frozen=True)
class Scene:
    """The sound events of one recording.

    Attributes:
        id: Unique over all splits.
        duration_s: Length in seconds.
        events: The sounds in the order of their onsets.
        whole_clip: Whether the scene is one unmixed recording, in which its sound may occur several times.
    """

    id: str
    duration_s: float
    events: tuple[SceneEvent, ...]
    whole_clip: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds in the order of their onsets, repeats included."""
        return tuple(event.kind for event in self.events)

    def to_dict(self) -> dict[str, Any]:
        """The scene as plain JSON values."""
        return asdict(self)


def sample_scene(
    kinds: Sequence[str],
    rng: np.random.Generator,
    scene_id: str,
    duration_s: float = 5.12,
    max_events: int = 3,
    event_s: tuple[float, float] = (0.5, 1.4),
) -> Scene:
    """Plan a scene: how many events, of which kinds, when and how loud.

    Args:
        kinds: The kinds to choose from.
        rng: The only source of randomness.
        scene_id: The scene's id.
        duration_s: Its length in seconds.
        max_events: Most events; one to this many are equally likely.
        event_s: Shortest and longest event in seconds; shortened where the scene would not hold them.

    Returns:
        The plan. Neighbours of the same kind are at least 0.7 s apart (unless shortened), those of different
        kinds may overlap by at most 0.3 s.
    """
    n_events = int(rng.integers(1, max_events + 1))
    chosen = _sample_kinds(kinds, n_events, rng)
    durations = rng.uniform(*event_s, n_events)
    gaps = np.zeros(n_events + 1)  # silence before the first event, between neighbours, after the last
    for index in range(1, n_events):
        if chosen[index] == chosen[index - 1]:
            gaps[index] = _REPEAT_GAP_S
        elif rng.random() < _OVERLAP_SHARE:
            gaps[index] = -rng.uniform(0.05, _LONGEST_OVERLAP_S)
        else:
            gaps[index] = _SHORTEST_GAP_S
    needed_s = durations.sum() + gaps.sum()
    if needed_s > duration_s:
        durations, gaps = durations * duration_s / needed_s, gaps * duration_s / needed_s
    else:
        loose = gaps >= 0  # overlaps stay overlaps
        gaps[loose] += rng.dirichlet(np.ones(int(loose.sum()))) * (duration_s - needed_s)
    onsets = np.cumsum(gaps[:-1]) + np.concatenate([[0.0], np.cumsum(durations[:-1])])
    gains = rng.uniform(_QUIETEST_DB, 0.0, n_events)
    events = tuple(
        SceneEvent(kind, round(float(onset), 4), round(float(length), 4), round(float(gain), 2))
        for kind, onset, length, gain in zip(chosen, onsets, durations, gains, strict=True)
    )
    return Scene(scene_id, duration_s, events)


def _sample_kinds(kinds: Sequence[str], n_events: int, rng: np.random.Generator) -> list[str]:
    order = [kinds[index] for index in rng.permutation(len(kinds))[:n_events]]
    n_distinct = len(order)
    if n_distinct > 1 and rng.random() < _REPEAT_SHARE:
        n_distinct = int(rng.integers(1, n_distinct))
    order = [order[index % n_distinct] for index in range(n_events)]
    return [order[index] for index in rng.permutation(n_events)]


def mix_scene(scene: Scene, bank: EventBank, rng: np.random.Generator) -> tuple[Scene, Waveform]:
    """Render a planned scene.

    Args:
        scene: The plan.
        bank: Where the events come from.
        rng: The only source of randomness.

    Returns:
        The scene with real lengths and sources (a recorded sound may be shorter than planned), and the
        waveform (S,) float32 at 16 kHz, within [-1, 1].
    """
    mix = np.zeros(int(round(scene.duration_s * SAMPLE_RATE)))
    events = []
    for event in scene.events:
        rendered = bank.draw(event.kind, rng, event.duration_s)
        start = int(event.onset_s * SAMPLE_RATE)
        wave = rendered.waveform[: len(mix) - start]
        mix[start : start + len(wave)] += wave * 10 ** (event.gain_db / 20)
        events.append(replace(event, duration_s=round(len(wave) / SAMPLE_RATE, 4), source=rendered.source))
    mix += _background(rng, len(mix))
    return replace(scene, events=tuple(events)), _limit(mix)


def whole_clip_scene(
    rendered: Rendered, kind: str, scene_id: str, duration_s: float, gain_db: float = 0.0
) -> tuple[Scene, Waveform]:
    """A scene that is one recording as it is: no other event, no added background.

    Args:
        rendered: The recording.
        kind: Its kind.
        scene_id: The scene's id.
        duration_s: Longest duration in seconds.
        gain_db: Change of its level.

    Returns:
        The scene and the waveform (S,) float32 at 16 kHz, within [-1, 1].
    """
    wave = rendered.waveform[: int(round(duration_s * SAMPLE_RATE))] * 10 ** (gain_db / 20)
    length_s = len(wave) / SAMPLE_RATE
    event = SceneEvent(kind, 0.0, round(length_s, 4), round(gain_db, 2), rendered.source)
    return Scene(scene_id, length_s, (event,), whole_clip=True), _limit(wave)


def _background(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Faint noise with a random tilt towards the lows."""
    white = rng.standard_normal(n_samples + 1, dtype=np.float32)
    tilt = np.float32(rng.uniform(0, 0.9))
    level = np.float32(10 ** (rng.uniform(*_BACKGROUND_DBFS) / 20) / np.sqrt(1 + tilt**2))
    return level * (white[1:] + tilt * white[:-1])


def _limit(wave: np.ndarray) -> Waveform:
    """Turn the whole scene down where overlapping peaks would clip."""
    return (wave * min(1.0, 1.0 / max(float(np.abs(wave).max()), 1e-9))).astype(np.float32)
