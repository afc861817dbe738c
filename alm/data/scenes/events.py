"""Sources of sounds for scenes: generated sounds, or excerpts of labelled recordings.

Both offer a list of sound classes (`kinds`) and a new sample of a class on request.
"""

import difflib
import functools
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alm.common.errors import AudioError, ManifestError
from alm.common.tables import read_csv
from alm.data.records import AudioRef
from alm.data.scenes.synthesis import SAMPLE_RATE, SYNTHESIZERS, Waveform
from alm.data.scenes.variation import vary
from encoders.audio import load_audio

SPLITS = ("train", "validation", "test")

FILE_COLUMNS = ("filename", "slice_file_name", "file_name", "fname", "path")
"""Names of the column that names a recording, the first that a table has."""
LABEL_COLUMNS = ("category", "class", "label", "target")
"""Names of the column with the one class of a recording, the first that a table has."""
_LEVEL_RMS = 0.1  # -20 dBFS leaves 20 dB of headroom for short peaks and for overlaps
_LARGEST_PEAK = 0.8
_FRAME_SAMPLES = 320  # 20 ms, the resolution at which a recording's active region is found
_ACTIVE_BELOW_PEAK_DB = 25.0
_SILENT_RMS = 1e-4  # -80 dBFS: a clip that never gets louder holds no event
# ESC-50 names its files fold-freesoundid-take-target: takes of one recording share fold and id.
_ESC_NAME = re.compile(r"^\d+-(?P<recording>\d+)-[A-Z]\b")


@dataclass(frozen=True)
class Rendered:
    """One event as sound.

    Attributes:
        waveform: (S,) float32 at 16 kHz.
        source: The file of which it is an excerpt; None for generated sounds.
    """

    waveform: Waveform
    source: str | None = None


@dataclass(frozen=True)
class Clip:
    """One labelled recording.

    Attributes:
        path: The audio file.
        kind: Its category.
        fold: The fold the table puts it in.
        recording: Its source recording; clips of one recording never fall into two splits.
        where: `file:line` of the table.
    """

    path: Path
    kind: str
    fold: str
    recording: str
    where: str


class EventBank(ABC):
    """A source of sound events.

    Attributes:
        kinds: The names of the kinds, words joined by underscores.
        event_s: Shortest and longest event the composer should ask for, in seconds.
    """

    kinds: tuple[str, ...]
    event_s: tuple[float, float]

    @abstractmethod
    def draw(self, kind: str, rng: np.random.Generator, max_s: float) -> Rendered:
        """A fresh rendering of a kind.

        Args:
            kind: One of `kinds`.
            rng: The only source of randomness.
            max_s: Longest duration, in seconds.

        Returns:
            The event at about -20 dBFS, at most `max_s` long.

        Raises:
            KeyError: An unknown kind.
        """

    def render(self, kind: str, rng: np.random.Generator, max_s: float) -> Waveform:
        """The waveform of `draw` alone, (S,) float32 at 16 kHz."""
        return self.draw(kind, rng, max_s).waveform

    def for_split(self, split: str) -> "EventBank":
        """The bank that scenes of a split may draw from: `train`, `validation` or `test`."""
        return self


class GeneratedEvents(EventBank):
    """Sixteen classes of synthetic sounds; no two samples are equal."""

    kinds = tuple(SYNTHESIZERS)
    event_s = (0.5, 1.4)

    def draw(self, kind: str, rng: np.random.Generator, max_s: float) -> Rendered:
        """A fresh synthesis, exactly `max_s` long."""
        wave = SYNTHESIZERS[kind](rng, max(int(round(max_s * SAMPLE_RATE)), 1600))
        return Rendered(_level(wave))


class RecordedEvents(EventBank):
    """Events cut from labelled recordings.

    The table has the columns that `read_labels` takes; others are ignored. Files are looked for beside the table and
    in `audio/` beside it. Held-out folds are for the test split only; of each kind's recordings in the other folds a
    fixed share is for validation.

    Args:
        labels_csv: The table.
        test_folds: The held-out folds; None holds out the last one.
        validation_share: Share of the recordings outside the held-out folds that validation gets.
        variation: Augment sounds of the training split with a new random speed and frequency response each time.

    Raises:
        ManifestError: The table cannot be read, lacks a column, names a file that is not there, has no clips
            or lacks the wanted folds, or a class has no training or test clips. File and line are named.
    """

    event_s = (0.9, 1.6)

    def __init__(
        self,
        labels_csv: str | os.PathLike[str],
        test_folds: Sequence[str | int] | None = None,
        validation_share: float = 0.15,
        variation: bool = True,
    ) -> None:
        self.labels_csv = Path(labels_csv)
        self.variation = variation
        self._varied = False
        clips = read_labels(self.labels_csv)
        held_out = _held_out_folds(clips, test_folds, self.labels_csv)
        self._splits = _split_clips(clips, held_out, validation_share, self.labels_csv)
        self.test_folds = held_out
        self.kinds = tuple(sorted({clip.kind for clip in clips}))
        self._clips = tuple(clips)

    def for_split(self, split: str) -> "RecordedEvents":
        """The same bank with only the clips of one split."""
        bank = object.__new__(RecordedEvents)
        bank.__dict__.update(self.__dict__)
        bank._clips = self._splits[split]
        bank._varied = split == "train" and self.variation
        bank.kinds = tuple(sorted({clip.kind for clip in bank._clips}))
        return bank

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The clips events are cut from, in the table's order."""
        return self._clips

    def draw(self, kind: str, rng: np.random.Generator, max_s: float) -> Rendered:
        """An excerpt of the active part of a random clip: at most `max_s` long, shorter if the sound is shorter."""
        clips = [clip for clip in self._clips if clip.kind == kind]
        if not clips:
            raise KeyError(kind)
        clip = clips[int(rng.integers(len(clips)))]
        wave = _cut(_read_clip(clip), rng, max_s)
        if self._varied:
            wave = vary(wave, rng)[: int(max_s * SAMPLE_RATE)]
        return Rendered(_level(wave), str(clip.path))

    def whole(self, clip: Clip, max_s: float, rng: np.random.Generator) -> Rendered:
        """A whole clip, cut at `max_s` seconds; augmented only in the training split, with `variation`."""
        wave = _read_clip(clip)
        wave = vary(wave, rng, roll=True) if self._varied else wave.copy()
        return Rendered(wave[: int(max_s * SAMPLE_RATE)], str(clip.path))


def _level(wave: np.ndarray) -> Waveform:
    """Bring an event to the common level, by its RMS and, for peaky ones, by its peak."""
    rms = max(float(np.sqrt(np.mean(np.square(wave)))), 1e-9)
    peak = max(float(np.abs(wave).max()), 1e-9)
    return (wave * min(_LEVEL_RMS / rms, _LARGEST_PEAK / peak)).astype(np.float32)


@functools.lru_cache(maxsize=512)  # 512 clips of 5 s are 160 MB, and a decode costs 15 ms
def _load(path: Path) -> Waveform:
    wave = load_audio(path, SAMPLE_RATE)
    wave.setflags(write=False)
    return wave


def _read_clip(clip: Clip) -> Waveform:
    try:
        wave = _load(clip.path)
    except AudioError as error:
        raise AudioError(f"{clip.where}: {error}") from error
    if float(np.sqrt(np.mean(np.square(wave)))) < _SILENT_RMS:
        raise AudioError(
            f"{clip.where}: {clip.path} is silent; expected a recording of {clip.kind!r}, remove the row"
        )
    return wave


def _cut(wave: Waveform, rng: np.random.Generator, max_s: float) -> Waveform:
    """A random window that starts with sound and has at least half the energy of the loudest window."""
    if len(wave) < 2 * _FRAME_SAMPLES:
        return wave
    n_frames = len(wave) // _FRAME_SAMPLES
    power = np.square(wave[: n_frames * _FRAME_SAMPLES]).reshape(n_frames, _FRAME_SAMPLES).mean(axis=1)
    active = power > power.max() * 10 ** (-_ACTIVE_BELOW_PEAK_DB / 10)
    n_window = min(max(int(max_s * SAMPLE_RATE / _FRAME_SAMPLES), 1), n_frames)
    totals = np.concatenate([[0.0], np.cumsum(power)])
    ends = np.minimum(np.arange(n_frames) + n_window, n_frames)
    energy = (totals[ends] - totals[:-1]) * active
    starts = np.flatnonzero(energy >= 0.5 * energy.max())
    # Prefer windows that start at an onset: they sound more natural. A continuous sound may have none.
    onsets = starts[(starts == 0) | ~active[np.maximum(starts - 1, 0)]]
    pool = onsets if len(onsets) and rng.random() < 0.7 else starts
    first = int(pool[rng.integers(len(pool))])
    last = first + int(np.flatnonzero(active[first : ends[first]])[-1]) + 1
    margin = int(first > 0)  # one frame of lead keeps the attack whole
    cut = wave[(first - margin) * _FRAME_SAMPLES : min(last + 1, int(ends[first])) * _FRAME_SAMPLES]
    cut = np.array(cut[: int(max_s * SAMPLE_RATE)])
    n_fade = min(160, len(cut) // 4)
    ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
    cut[:n_fade] *= ramp
    cut[len(cut) - n_fade :] *= ramp[::-1]
    return cut


def read_labels(path: Path, fold: str = "fold") -> list[Clip]:
    """The rows of a label table, each checked.

    Args:
        path: A CSV file with ESC-50's columns `filename`, `fold` and `category`, or other usual names for them
            (`FILE_COLUMNS`, `LABEL_COLUMNS`).
        fold: The column in place of `fold`, for example `speaker`.

    Raises:
        ManifestError: The table cannot be read, lacks a column, or names a file that is not there.
    """
    clips: list[Clip] = []
    for where, row in read_csv(path):
        if not clips:
            _check_columns(list(row), path, fold)
        clips.append(_parse_row(row, path, where, fold))
    if not clips:
        raise ManifestError(f"{path}:1: no clips below the header; expected one row per recording")
    return clips


def is_label_table(path: Path) -> bool:
    """Whether a CSV file has the columns of a label table (see `read_labels`), or is empty.

    Raises:
        ManifestError: The file cannot be read.
    """
    for _, row in read_csv(path):
        return all(any(name in row for name in wanted) for wanted in _wanted_columns("fold"))
    return True


def _wanted_columns(fold: str) -> tuple[tuple[str, ...], ...]:
    """Columns of a label table, each with the names it may have."""
    return FILE_COLUMNS, (fold,), LABEL_COLUMNS


def _check_columns(columns: list[str], path: Path, fold: str) -> None:
    for wanted in _wanted_columns(fold):
        if not any(name in columns for name in wanted):
            near = difflib.get_close_matches(wanted[0], columns, n=1)
            hint = f"rename {near[0]!r}" if near else "add it"
            names = " or ".join(map(repr, wanted))
            raise ManifestError(f"{path}:1: no column {names} among {', '.join(columns) or 'none'}; {hint}")


def _parse_row(row: dict[str, str], path: Path, where: str, fold: str) -> Clip:
    named, label = (next(name for name in names if name in row) for names in (FILE_COLUMNS, LABEL_COLUMNS))
    values = {key: row[key] for key in (named, fold, label)}
    for key, value in values.items():
        if not value:
            raise ManifestError(f"{where}: {key!r} is empty; fill it in or remove the row")
    name = values[named]
    places = (path.parent / name, path.parent / "audio" / name)
    file = next((place for place in places if AudioRef(place).exists()), None)
    if file is None:
        raise ManifestError(
            f"{where}: no file {name!r} in {path.parent} or its folder 'audio'; fix the row or add it"
        )
    kind = re.sub(r"[\W_]+", "_", values[label].lower()).strip("_")
    if not kind:
        raise ManifestError(
            f"{where}: {label!r} is {values[label]!r}; expected a name with letters or digits"
        )
    kind = f"sound_{kind}" if kind.isdigit() else kind  # ESC-50's 'target' is a bare number
    return Clip(file, kind, values[fold], recording_of(file), where)


def recording_of(file: Path) -> str:
    """The source recording in an ESC-50 file name (fold-freesoundid-take-target); of another name, the name itself."""
    match = _ESC_NAME.match(file.stem)
    return match["recording"] if match else file.stem


def _held_out_folds(clips: list[Clip], asked: Sequence[str | int] | None, path: Path) -> tuple[str, ...]:
    folds = sorted({clip.fold for clip in clips}, key=lambda fold: (not fold.isdigit(), fold.zfill(9)))
    held_out = tuple(map(str, asked)) if asked is not None else (folds[-1],)
    if not held_out:
        raise ManifestError(f"{path}: no test folds given; expected at least one of {', '.join(folds)}")
    for fold in held_out:
        if fold not in folds:
            raise ManifestError(
                f"{path}: no clips in fold {fold!r}; the table has the folds {', '.join(folds)}"
            )
    if set(held_out) == set(folds):
        raise ManifestError(
            f"{path}: all folds ({', '.join(folds)}) are held out for the test; leave one for training"
        )
    return held_out


def _split_clips(
    clips: list[Clip], held_out: tuple[str, ...], share: float, path: Path
) -> dict[str, tuple[Clip, ...]]:
    """Assign clips to splits so that no recording is in two of them."""
    test = tuple(clip for clip in clips if clip.fold in held_out)
    tested = {clip.recording for clip in test}
    rest = [clip for clip in clips if clip.fold not in held_out and clip.recording not in tested]
    validation: set[str] = set()
    for kind in sorted({clip.kind for clip in clips}):
        # A recording's rank is a hash of its name, so adding rows moves few others between the splits.
        recordings = sorted({clip.recording for clip in rest if clip.kind == kind}, key=_hash)
        if not recordings or not any(clip.kind == kind for clip in test):
            lacking = "the held-out folds" if recordings else "the training folds"
            raise ManifestError(
                f"{path}: kind {kind!r} has no clips in {lacking}; choose other folds or remove it"
            )
        n_validation = min(max(round(share * len(recordings)), 1), len(recordings) - 1)
        validation.update(recordings[:n_validation])
    return {
        "train": tuple(clip for clip in rest if clip.recording not in validation),
        "validation": tuple(clip for clip in rest if clip.recording in validation),
        "test": test,
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8")).hexdigest()
