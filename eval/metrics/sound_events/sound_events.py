"""Sound events with their times, as detection challenges score them, from the times that an answer gives.

Segment F1 counts, for each class, the seconds in which it is active (Mesaros et al. 2016). Event F1 matches events
whose onsets differ by at most 200 ms and whose offsets by at most 200 ms or 20 % of the length. PSDS (Bilen et al.
2020) is that of one operating point, since an answer has no thresholds: detection and ground-truth tolerance 0.7, no
cost of cross-triggers, standard deviation of the classes subtracted, up to 100 false alarms an hour.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.metrics._base import TextMetric
from eval.parsing.events import Event, parse_events

SEGMENT_S = 1.0
COLLAR_S = 0.2
COLLAR_SHARE = 0.2
TOLERANCE = 0.7
MOST_FALSE_ALARMS = 100.0  # an hour
# Columns of the counts before those of the classes: hits, false alarms and misses of segments and of events, hours.
_FIXED = 7
_PER_CLASS = 3
_TINY_S = 1e-6  # tolerance for rounding: times are written with two decimals


class SoundEvents(TextMetric):
    """Segment F1, event F1 and PSDS of the events that an answer lists."""

    citation = "Mesaros et al. 2016; Bilen et al. 2020, A Framework for the Robust Evaluation of Sound Event Detection."

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        durations_s: Sequence[float | None] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `segment_f1`, `event_f1`, `psds`, `per_sample` (segment F1), `counts` and `backend`.

        Args:
            predictions: Answers.
            references: The events, as `eval.parsing.events.events_text` writes them; the first of each counts.
            durations_s: Lengths of the recordings; one that is not given ends with its last event.
            **options: Not used.
        """
        wanted = [parse_events(targets[0]) for targets in references]
        said = [parse_events(prediction) for prediction in predictions]
        lengths = durations_s or [None] * len(wanted)
        labels = sorted({event.label for events in wanted for event in events})
        counts = np.array(
            [
                _counts(mine, true, labels, _length(length, mine, true))
                for mine, true, length in zip(said, wanted, lengths, strict=True)
            ]
        )
        total = counts.sum(axis=0, keepdims=True)
        samples = score_of("segment_f1", counts)
        return {
            **{name: float(score_of(name, total)[0]) for name in ("segment_f1", "event_f1", "psds")},
            # A clip without events scores 1 if the answer lists none.
            "per_sample": np.where(counts[:, :3].sum(axis=1) > 0, np.nan_to_num(samples), 1.0).tolist(),
            "counts": counts.tolist(),
            "backend": (
                f"sound_events[segment={SEGMENT_S:g}s,collar={COLLAR_S:g}s,dtc=gtc={TOLERANCE:g},"
                f"max_efpr={MOST_FALSE_ALARMS:g}/h]"
            ),
        }


def score_of(name: str, sums: np.ndarray) -> np.ndarray:
    """A score from counts, or sums of counts over recordings.

    Args:
        name: `segment_f1`, `event_f1` or `psds`.
        sums: (R, 7 + 3 K) for K classes.

    Returns:
        (R,) scores, NaN where there are no events.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if name != "psds":
        hits, alarms, misses = sums[:, :3].T if name == "segment_f1" else sums[:, 3:6].T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2 * hits / (2 * hits + alarms + misses))
    hours = sums[:, _FIXED - 1]
    classes = sums[:, _FIXED:].reshape(len(sums), -1, _PER_CLASS)  # (R, K, 3)
    return np.array(
        [_psds(row[:, 0], row[:, 1], row[:, 2], hour) for row, hour in zip(classes, hours, strict=True)]
    )


def _psds(hits: np.ndarray, events: np.ndarray, alarms: np.ndarray, hours: float) -> float:
    """Area under the curve of hit rate over false alarms per hour, up to the limit; mean minus deviation over classes.

    There is one operating point per class: at fewer false alarms than it has, its hit rate counts as 0.
    """
    asked = events > 0
    if not asked.any():
        return math.nan
    rates = hits[asked] / events[asked]
    starts = alarms[asked] / hours if hours > 0 else np.where(alarms[asked] > 0, math.inf, 0.0)
    edges = np.unique([*starts[starts < MOST_FALSE_ALARMS], MOST_FALSE_ALARMS])
    area = 0.0
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        reached = np.where(starts <= left, rates, 0.0)
        area += max(0.0, float(reached.mean() - reached.std())) * (right - left)
    return area / MOST_FALSE_ALARMS


def _counts(said: list[Event], wanted: list[Event], labels: list[str], length_s: float) -> list[float]:
    mine, true = _segments(said), _segments(wanted)
    matched = _matches(said, wanted)
    per_class: list[float] = []
    for label in labels:
        found = [event for event in said if event.label == label]
        real = [event for event in wanted if event.label == label]
        good = [event for event in found if _covered(event, real) >= TOLERANCE - _TINY_S]
        hits = sum(_covered(event, good) >= TOLERANCE - _TINY_S for event in real)
        per_class += [hits, len(real), len(found) - len(good)]
    return [
        len(mine & true), len(mine - true), len(true - mine),
        matched, len(said) - matched, len(wanted) - matched,
        length_s / 3600, *per_class,
    ]  # fmt: skip


def _segments(events: list[Event]) -> set[tuple[str, int]]:
    return {
        (event.label, segment)
        for event in events
        for segment in range(
            int((event.onset_s + _TINY_S) // SEGMENT_S), math.ceil((event.offset_s - _TINY_S) / SEGMENT_S)
        )
    }


def _matches(said: list[Event], wanted: list[Event]) -> int:
    """The most pairs of equal events, each event in one pair at most."""
    from scipy.optimize import linear_sum_assignment

    fits = np.array([[_equal(mine, true) for true in wanted] for mine in said], dtype=np.float64)
    if not fits.size:
        return 0
    return int(fits[linear_sum_assignment(-fits)].sum())


def _equal(mine: Event, true: Event) -> bool:
    collar = max(COLLAR_S, COLLAR_SHARE * (true.offset_s - true.onset_s))
    return (
        mine.label == true.label
        and abs(mine.onset_s - true.onset_s) <= COLLAR_S + _TINY_S
        and abs(mine.offset_s - true.offset_s) <= collar + _TINY_S
    )


def _covered(event: Event, others: list[Event]) -> float:
    """Share of an event that other events cover, summed over them."""
    shared = (max(0.0, min(event.offset_s, one.offset_s) - max(event.onset_s, one.onset_s)) for one in others)
    return sum(shared) / (event.offset_s - event.onset_s)


def _length(length_s: float | None, *events: list[Event]) -> float:
    if length_s is not None:
        return float(length_s)
    return max((event.offset_s for one in events for event in one), default=0.0)
