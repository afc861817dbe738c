"""Composing a data set of scenes: audio, captions and questions, split into train, validation and test.

::

    out/
      train.jsonl  validation.jsonl  test.jsonl    manifests (see alm.data.manifest)
      audio/<scene id>.wav                         16 kHz, 16 bit
      scenes.jsonl                                 the sounds of every scene with their times
      compose.json                                 the configuration; marks the data set as complete
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.common.files import new_folder, read_text, write_text_atomic
from alm.common.json_text import parse_json, read_json
from alm.common.names import check_file_name
from alm.common.processes import interrupts_kept_from_children, tied_call
from alm.data.manifest import read_manifest, write_manifest
from alm.data.scenes.events import SPLITS, Clip, EventBank, GeneratedEvents, RecordedEvents
from alm.data.scenes.language import Language, Question
from alm.data.scenes.phrases import NUMBER_WORDS
from alm.data.scenes.scene import Scene, mix_scene, sample_scene, whole_clip_scene
from alm.data.scenes.synthesis import SAMPLE_RATE
from encoders.audio import save_wav

MARKER = "compose.json"

_SCENES_PER_TASK = 25
_WAV_HEADER_BYTES = 44
_WHOLE_CLIP_GAIN_DB = (-6.0, 3.0)


@dataclass(frozen=True)
class ComposeConfig:
    """Options of a composed data set.

    Attributes:
        seed: The same seed gives the same files.
        n_train: Scenes for training.
        n_validation: Scenes for validation.
        n_test: Scenes for the test.
        scene_s: Length of a scene in seconds; 5.12 s are 512 mel frames.
        max_events: Most sounds in a scene.
        questions_per_scene: Questions about each scene, beside its captions.
        event_s: Shortest and longest sound in seconds; None takes those of the source of sounds.
        labels_csv: Label table of recordings (ESC-50's columns); None generates the sounds.
        test_folds: Folds that only the test split may use; None takes the table's last fold.
        validation_share: Share of the other folds' recordings that only validation may use.
        whole_clip_share: With recordings, the share of training scenes that are one recording as it is. Validation
            and test get one such scene for each of their recordings, beside the mixed scenes.
        variation: With recordings, augment those of the training split: speed and frequency response.
    """

    seed: int = 0
    n_train: int = 2400
    n_validation: int = 200
    n_test: int = 300
    scene_s: float = 5.12
    max_events: int = 3
    questions_per_scene: int = 4
    event_s: tuple[float, float] | None = None
    labels_csv: str | None = None
    test_folds: tuple[str, ...] | None = None
    validation_share: float = 0.15
    whole_clip_share: float = 0.35
    variation: bool = True

    def __post_init__(self) -> None:
        limits = {
            "seed": (0, None),
            "n_train": (1, None),
            "n_validation": (1, None),
            "n_test": (1, None),
            "scene_s": (1.0, 60.0),
            "max_events": (1, len(NUMBER_WORDS) - 1),
            "questions_per_scene": (1, 8),
            "validation_share": (0.0, 0.5),
            "whole_clip_share": (0.0, 1.0),
        }
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"compose.{key} is {value!r}; expected a number")
            if value < low or (high is not None and value > high):
                span = f"{low} or more" if high is None else f"{low} to {high}"
                raise ConfigError(f"compose.{key} is {value!r}; expected {span}")
        if self.event_s is not None and not 0.1 <= self.event_s[0] <= self.event_s[1] <= self.scene_s:
            raise ConfigError(
                f"compose.event_s is {self.event_s!r}; expected 0.1 <= shortest <= longest <= scene_s"
            )

    def n_scenes(self, split: str) -> int:
        """How many mixed scenes a split gets."""
        return {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}[split]


@dataclass(frozen=True)
class Composed:
    """One finished scene: its sounds with their real lengths, and the manifest rows about it."""

    scene: Scene
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Task:
    """A range of mixed scenes of one split; with `whole`, a range of its recordings."""

    split: str
    start: int
    stop: int
    whole: bool


def build_bank(config: ComposeConfig) -> EventBank:
    """The source of sounds that a config names: a label table of recordings, or else generated sounds.

    Raises:
        ManifestError: The label table is not usable.
    """
    if config.labels_csv is None:
        return GeneratedEvents()
    return RecordedEvents(config.labels_csv, config.test_folds, config.validation_share, config.variation)


def compose(
    config: ComposeConfig,
    out_dir: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> Path:
    """Compose a data set; the folder appears complete or not at all.

    Args:
        config: What to compose.
        out_dir: The folder to make; a complete data set of the same configuration in it is kept.
        progress: Called with (scenes done, total scenes).
        workers: Number of processes; 1 composes in this process. The result does not depend on it.

    Returns:
        `out_dir`.

    Raises:
        UserError: `out_dir` is not writable or holds something else, or the recordings cannot be used.
    """
    out = Path(out_dir)
    marker = _marker(config)
    if _is_finished(out, marker):
        return out
    tasks = _plan(config, build_bank(config))
    total = sum(task.stop - task.start for task in tasks)
    try:
        with new_folder(out) as folder:
            (folder / "audio").mkdir()
            done: list[tuple[str, Composed]] = []
            for task, composed in _run(config, tasks, folder, workers):
                done += [(task.split, item) for item in composed]
                if progress:
                    progress(len(done), total)
            _write_tables(done, folder)
            write_text_atomic(folder / MARKER, json.dumps(marker, indent=2) + "\n")
    except UserError:
        if out.is_dir() and _is_finished(out, marker):  # another process was faster
            return out
        raise
    return out


def _marker(config: ComposeConfig) -> dict[str, Any]:
    """The content of `compose.json`; a finished data set is kept if its marker is equal to this."""
    values = asdict(config)
    if config.labels_csv is not None:
        values["labels_csv"] = os.path.realpath(config.labels_csv)
    plain: dict[str, Any] = json.loads(json.dumps({"format": 1, "config": values}))
    return plain


def _is_finished(out: Path, marker: Mapping[str, Any]) -> bool:
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a new or empty folder")
    try:
        if not out.is_dir() or not any(out.iterdir()):
            return False
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror}); choose a new folder") from error
    if not (out / MARKER).is_file():
        message = "holds something other than a finished data set; delete it or choose a new folder"
        raise UserError(f"{out}: {message}")
    if read_json(out / MARKER, UserError) != marker:
        raise UserError(f"{out}: holds a data set of another configuration; delete it or choose a new folder")
    _check_complete(out)
    return True


def _check_complete(out: Path) -> None:
    """Compare the manifests and recordings of a data set with its list of scenes.

    Raises:
        UserError: A file is missing, cut or unreadable; the file is named.
    """
    scenes: dict[str, set[str]] = {split: set() for split in SPLITS}
    try:
        lines = read_text(out / "scenes.jsonl").splitlines()
        for number, line in enumerate(lines, start=1):
            scene = parse_json(line, f"{out / 'scenes.jsonl'}:{number}")
            scenes[scene["split"]].add(scene["id"])
            wave = out / "audio" / f"{check_file_name(scene['id'], 'the id of a scene')}.wav"
            expected = _WAV_HEADER_BYTES + 2 * round(scene["duration_s"] * SAMPLE_RATE)
            if wave.stat().st_size != expected:
                raise ManifestError(f"{wave}: has {wave.stat().st_size} bytes; expected {expected}")
        for split in SPLITS:
            path = out / f"{split}.jsonl"
            if {record.clip for record in read_manifest(path)} != scenes[split]:
                raise ManifestError(f"{path}: does not hold the scenes of scenes.jsonl")
    except (OSError, ManifestError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{out}: the data set is damaged ({error}); delete the folder and compose it again"
        ) from error


def _plan(config: ComposeConfig, bank: EventBank) -> list[_Task]:
    counts = []
    for split in SPLITS:
        counts.append((split, config.n_scenes(split), False))
        part = bank.for_split(split)
        if isinstance(part, RecordedEvents) and split != "train":
            counts.append((split, len(part.clips), True))
    return [
        _Task(split, start, min(start + _SCENES_PER_TASK, count), whole)
        for split, count, whole in counts
        for start in range(0, count, _SCENES_PER_TASK)
    ]


def _run(
    config: ComposeConfig, tasks: list[_Task], folder: Path, workers: int
) -> Iterator[tuple[_Task, list[Composed]]]:
    """Do the tasks, in order, in this process or in others."""
    if workers <= 1:
        composer = _Composer(config, folder)
        for task in tasks:
            yield task, composer.run(task)
        return
    # spawn: forking a process that has used torch's threads can hang.
    start, call = tied_call(_start_worker, config, folder)
    others = active_children()
    with ProcessPoolExecutor(workers, get_context("spawn"), start, (call,)) as pool:
        try:
            with interrupts_kept_from_children():
                results = pool.map(_run_in_worker, tasks)  # starts the workers
            yield from zip(tasks, results, strict=True)
        except BrokenProcessPool as error:
            raise UserError(
                f"{folder}: a worker process was killed, perhaps for lack of memory; free some and run it again"
            ) from error
        except BaseException:
            for worker in active_children():  # without this they finish their current task first
                if worker not in others:
                    worker.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_composer: "_Composer | None" = None  # set in each worker process


def _start_worker(config: ComposeConfig, folder: Path) -> None:
    global _composer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which shuts the pool down
    _composer = _Composer(config, folder)


def _run_in_worker(task: _Task) -> list[Composed]:
    assert _composer is not None
    return _composer.run(task)


class _Composer:
    """Makes scenes. Each has a generator seeded by its split and index, so the number of processes changes nothing."""

    def __init__(self, config: ComposeConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        bank = build_bank(config)
        self.language = Language(bank.kinds)
        self.banks = {split: bank.for_split(split) for split in SPLITS}

    def run(self, task: _Task) -> list[Composed]:
        make = self.whole_clip if task.whole else self.mixed
        return [make(task.split, index) for index in range(task.start, task.stop)]

    def mixed(self, split: str, index: int) -> Composed:
        """The `index`-th scene of a split."""
        config, bank = self.config, self.banks[split]
        rng = np.random.default_rng((config.seed, SPLITS.index(split), 0, index))
        scene_id = f"{split}-{index:05d}"
        if isinstance(bank, RecordedEvents) and split == "train" and rng.random() < config.whole_clip_share:
            clip = bank.clips[int(rng.integers(len(bank.clips)))]
            gain_db = float(rng.uniform(*_WHOLE_CLIP_GAIN_DB))
            scene, wave = self._whole(bank, clip, scene_id, gain_db, rng)
        else:
            event_s = config.event_s or bank.event_s
            plan = sample_scene(bank.kinds, rng, scene_id, config.scene_s, config.max_events, event_s)
            scene, wave = mix_scene(plan, bank, rng)
        questions = self.language.questions(scene, rng, config.questions_per_scene)
        return self._finish(scene, wave, questions)

    def whole_clip(self, split: str, index: int) -> Composed:
        """The `index`-th recording of a split, unmixed, with a question that asks for its sound."""
        bank = self.banks[split]
        assert isinstance(bank, RecordedEvents)
        rng = np.random.default_rng((self.config.seed, SPLITS.index(split), 1, index))
        scene, wave = self._whole(bank, bank.clips[index], f"{split}-clip-{index:05d}", 0.0, rng)
        return self._finish(scene, wave, [self.language.what(scene, rng)])

    def _whole(
        self, bank: RecordedEvents, clip: Clip, scene_id: str, gain_db: float, rng: np.random.Generator
    ) -> tuple[Scene, np.ndarray]:
        return whole_clip_scene(
            bank.whole(clip, self.config.scene_s, rng), clip.kind, scene_id, self.config.scene_s, gain_db
        )

    def _finish(self, scene: Scene, wave: np.ndarray, questions: list[Question]) -> Composed:
        audio = f"audio/{scene.id}.wav"
        save_wav(self.folder / audio, wave, SAMPLE_RATE)
        common: dict[str, Any] = {"audio": audio, "clip": scene.id}
        sources = list(dict.fromkeys(event.source for event in scene.events if event.source))
        if sources:
            common |= {"sources": sources, "whole_clip": scene.whole_clip}
        rows = [{"id": f"{scene.id}-caption", **common, "captions": self.language.captions(scene)}]
        for number, question in enumerate(questions):
            choices = {"choices": list(question.choices)} if question.choices else {}
            said = {
                "question": question.question,
                **choices,
                "answer": question.answer,
                "kind": question.kind,
            }
            rows.append({"id": f"{scene.id}-q{number}", **common, **said})
        return Composed(scene, tuple(rows))


def _write_tables(done: list[tuple[str, Composed]], folder: Path) -> None:
    try:
        for split in SPLITS:
            write_manifest(
                folder / f"{split}.jsonl", [row for name, item in done if name == split for row in item.rows]
            )
    except ManifestError as error:
        raise UserError(str(error)) from error
    lines = [json.dumps({**item.scene.to_dict(), "split": split}) + "\n" for split, item in done]
    write_text_atomic(folder / "scenes.jsonl", "".join(lines))
