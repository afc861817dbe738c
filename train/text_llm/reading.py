"""Reading exercises: scenes described in words, with questions and caption requests about each.

One row holds one description and several independent exercises about it. By its attention mask, each exercise attends
to the description and to itself alone, and its positions continue those of the description. So every exercise gets
exactly the result that it would get alone, rendered by the chat template, but the description is computed only once.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from alm.data.records import CAPTION_PROMPTS, format_choices
from alm.data.scenes.language import Language, Question
from alm.data.scenes.phrases import SILENCE_WORDS
from alm.data.scenes.scene import Scene, sample_scene
from alm.head import IGNORE
from train.data.protocols import TrainingDataset

_SKIPPED_SINGLE_SHARE = 0.6  # share of scenes with one sound that are redrawn: they are easy and teach little
_POOL_BATCHES = 16  # batches drawn together, so that each batch holds rows of similar length
_FULL_STEP_S = 0.32  # step of a timeline of 16 steps over 5.12 s
_CURRICULUM_SHARE = 0.6  # share of the training after which all timelines have their full length
_SHORTEST = 0.15  # shortest timeline as a share of the full number of steps: about one step per sound


@dataclass(frozen=True)
class Exercise:
    """A request about a scene.

    Attributes:
        kind: The question's kind, or `caption`.
        request: The user's text after the description.
        answers: The right answers; several for captions.
    """

    kind: str
    request: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class ReadingScene:
    """A description and its exercises."""

    description: str
    exercises: tuple[Exercise, ...]


def draw_reading_scene(
    language: Language, rng: np.random.Generator, n_steps: int | None = None, shrink: float = 1.0
) -> ReadingScene:
    """Draw a scene in words, with a caption request and questions of every form.

    Args:
        language: The words.
        rng: The only source of randomness.
        n_steps: Number of steps of the timeline; None draws it, or describes the scene in prose.
        shrink: Below 1, the timeline has fewer steps, down to one per sound, which makes it easier.

    Returns:
        The scene and its exercises.
    """
    scene = sample_scene(language.kinds, rng, str(rng.integers(1 << 30)))
    if len(scene.events) == 1 and rng.random() < _SKIPPED_SINGLE_SHARE:
        scene = sample_scene(language.kinds, rng, scene.id)
    prompt = CAPTION_PROMPTS[int(rng.integers(len(CAPTION_PROMPTS)))]
    exercises = [Exercise("caption", prompt, tuple(language.caption_wordings(scene)))]
    exercises += [_exercise(question) for question in _practice(language, scene, rng)]
    if shrink < 1.0:
        return ReadingScene(" ".join(_shrunk_timeline(language, scene, rng, shrink)), tuple(exercises))
    return ReadingScene(language.describe(scene, rng, n_steps), tuple(exercises))


def _exercise(question: Question) -> Exercise:
    return Exercise(question.kind, format_choices(question.question, question.choices), (question.answer,))


def _practice(language: Language, scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Choose questions: several on order and presence, which take longest to learn."""
    n_events = len(scene.events)
    kind = scene.kinds[int(rng.integers(n_events))]
    questions = [language.presence(scene, rng), language.presence(scene, rng)]
    questions += [language.how_many(scene, rng), language.how_many(scene, rng, kind)]
    if n_events == 1:
        easy = [language.what(scene, rng), language.choice(scene, rng)]
        return [*questions, easy[int(rng.integers(2))]]
    positions = ("first", "second", "last")[: min(n_events, 3)]
    questions += [language.order(scene, rng, position) for position in positions]
    # Which option is in the scene at all is a harder question than which one is first.
    position = positions[int(rng.integers(len(positions)))] if len(set(scene.kinds)) > 1 else None
    return [*questions, language.choice(scene, rng, position if rng.random() < 0.4 else None)]


def _shrunk_timeline(language: Language, scene: Scene, rng: np.random.Generator, shrink: float) -> list[str]:
    """Write a timeline whose steps are longer by `1 / shrink`, without losing a sound or a repetition."""
    step_s = _FULL_STEP_S / shrink
    silence = SILENCE_WORDS[int(rng.integers(len(SILENCE_WORDS)))]
    words: list[str] = []
    end_s = 0.0
    for index, event in enumerate(scene.events):
        n_silent = int(max(event.onset_s - end_s, 0.0) / step_s + rng.random())
        if index and event.kind == scene.events[index - 1].kind:
            n_silent = max(n_silent, 1)
        words += [silence] * n_silent
        words += [language.word(event.kind)] * max(int(event.duration_s / step_s + rng.random()), 1)
        end_s = event.end_s
    return words + [silence] * int((scene.duration_s - end_s) / step_s + rng.random())


@dataclass(frozen=True)
class Row:
    """One description and its exercises as tokens: ids, labels, positions and segments, equally long.

    Segment 0 is the description, the others are the exercises.
    """

    ids: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]


class RowPacker:
    """Turns reading scenes into batches.

    Args:
        tokenizer: The tokenizer; a probe conversation finds the parts of its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        probe = [{"role": "user", "content": "\x00"}]
        head, tail = str(
            tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
        ).split("\x00")
        self._head, self._tail = head, tail
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a piece of text, from a cache: few different pieces occur."""
        if text not in self._cache:
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._cache[text]

    def _request_ids(self, request: str) -> list[int]:
        first, *options = request.split("\n")
        # Options are cached one by one: the same four in the same order hardly ever occur again.
        return [*self.ids(first), *(i for option in options for i in self.ids_of_option(option))]

    def ids_of_option(self, option: str) -> list[int]:
        """Return the token ids of an option line and the line break before it."""
        key = "\n" + option
        if key not in self._cache:
            whole = self.tokenizer("x" + key, add_special_tokens=False)["input_ids"]
            alone = self.tokenizer("x", add_special_tokens=False)["input_ids"]
            self._cache[key] = whole[len(alone) :]
        return self._cache[key]

    def row(self, scene: ReadingScene, rng: np.random.Generator) -> Row:
        """Build one row."""
        description = [i for word in scene.description.split(" ") for i in self.ids(word)]
        ids = [*self.ids(self._head), *description]
        labels, positions, segments = [IGNORE] * len(ids), list(range(len(ids))), [0] * len(ids)
        n_shared = len(ids)
        for number, exercise in enumerate(scene.exercises, start=1):
            request = [*self._request_ids(exercise.request), *self.ids(self._tail)]
            answer = exercise.answers[int(rng.integers(len(exercise.answers)))]
            reply = [*(i for word in answer.split(" ") for i in self.ids(word)), self.tokenizer.eos_token_id]
            ids += request + reply
            labels += [IGNORE] * len(request) + reply
            positions += range(n_shared, n_shared + len(request) + len(reply))
            segments += [number] * (len(request) + len(reply))
        return Row(ids, labels, positions, segments)

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Collate rows to tensors, padded to the longest.

        Returns:
            `input_ids`, `labels`, `position_ids`, `segments` (B, N) and `attention_mask` (B, 1, N, N)
            float32, 0 where attention is allowed and very negative elsewhere. Padding has segment -1.
        """
        width = max(len(row.ids) for row in rows)

        def column(name: str, fill: int) -> Tensor:
            values = [getattr(row, name) for row in rows]
            return torch.tensor([value + [fill] * (width - len(value)) for value in values])

        segments = column("segments", -1)
        own = segments[:, :, None] == segments[:, None, :]  # (B, N, N)
        allowed = (own | (segments[:, None, :] == 0)) & torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)
        return {
            "input_ids": column("ids", self.tokenizer.pad_token_id),
            "labels": column("labels", IGNORE),
            "position_ids": column("positions", 0),
            "segments": segments,
            "attention_mask": mask[:, None],
        }


class ReadingBatches(TrainingDataset):
    """Batches of exercises, a function of the seed; the timelines grow from short ones to the length of audio.

    Batches are made one after the other; to get an earlier batch than the last one, it starts again from the first.
    """

    def __init__(
        self, packer: RowPacker, language: Language, seed: int, n_scenes: int, n_batches: int
    ) -> None:
        self.packer, self.language, self.seed = packer, language, seed
        self.n_scenes, self.n_batches = n_scenes, n_batches
        self._made, self._batches = 0, self._make()

    def __len__(self) -> int:
        return self.n_batches

    def name(self, index: int) -> str:
        """Return a batch's number as text."""
        return f"batch {index}"

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the batches in the order in which they are made."""
        return np.arange(len(self))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a batch; see `RowPacker.batch`, without segments."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index < self._made:
            self._made, self._batches = 0, self._make()
        batch = next(itertools.islice(self._batches, index - self._made, None))
        self._made = index + 1
        return batch

    def _make(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches from the beginning."""
        rng = np.random.default_rng((self.seed, 1))
        for start in range(0, self.n_batches, _POOL_BATCHES):
            n_batches = min(_POOL_BATCHES, self.n_batches - start)
            grown = start / (_CURRICULUM_SHARE * self.n_batches)
            rows = [self.packer.row(self._draw(rng, grown), rng) for _ in range(n_batches * self.n_scenes)]
            rows.sort(key=lambda row: len(row.ids))  # rows of similar length need little padding
            for number in rng.permutation(n_batches):
                batch = self.packer.batch(rows[number * self.n_scenes : (number + 1) * self.n_scenes])
                del batch["segments"]
                yield batch

    def _draw(self, rng: np.random.Generator, grown: float) -> ReadingScene:
        """Draw a full-length scene with probability `grown`, else one whose length grows with `grown`."""
        if rng.random() < grown:
            return draw_reading_scene(self.language, rng)
        shrink = _SHORTEST + (1 - _SHORTEST) * min(2 * grown * rng.random(), 0.99)
        return draw_reading_scene(self.language, rng, shrink=shrink)


@torch.no_grad()
def score_reading(
    model: Any, packer: RowPacker, language: Language, seed: int, n_scenes: int, n_steps: int | None = 16
) -> dict[str, float]:
    """Compute the share of exercises with exactly right greedy answers, on new scenes, by kind of exercise.

    The questions have the composer's wording. A caption is right in any of its wordings.

    Args:
        model: The LLM.
        packer: Holds the tokenizer.
        language: The words.
        seed: Seed of the scenes; training with the same seed uses other scenes.
        n_scenes: Number of scenes.
        n_steps: Number of steps of the timelines; None uses the mix of training.

    Returns:
        Kind → accuracy, and `all` over the questions.
    """
    rng = np.random.default_rng((seed, 2))
    right: dict[str, list[bool]] = {}
    was_training = model.training
    model.eval()
    for start in range(0, n_scenes, 25):
        items: list[tuple[str, Exercise]] = []
        for _ in range(min(25, n_scenes - start)):
            scene = sample_scene(language.kinds, rng, str(rng.integers(1 << 30)))
            text = language.describe(scene, rng, n_steps)
            items.append(
                (text, Exercise("caption", CAPTION_PROMPTS[0], tuple(language.caption_wordings(scene))))
            )
            items += [(text, _exercise(question)) for question in language.questions(scene, rng, 4)]
        replies = _reply(model, packer.tokenizer, [f"{text} {exercise.request}" for text, exercise in items])
        for (_, exercise), reply in zip(items, replies, strict=True):
            right.setdefault(exercise.kind, []).append(reply.strip() in exercise.answers)
    model.train(was_training)
    scores = {kind: float(np.mean(marks)) for kind, marks in sorted(right.items())}
    scores["all"] = float(
        np.mean([mark for kind, marks in right.items() if kind != "caption" for mark in marks])
    )
    return scores


def _reply(model: Any, tokenizer: PreTrainedTokenizerFast, requests: list[str]) -> list[str]:
    """Generate greedy answers to single user turns."""
    turns = [[{"role": "user", "content": request}] for request in requests]
    texts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns
    ]
    inputs = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True)
    output = model.generate(**inputs.to(model.device), max_new_tokens=40, do_sample=False)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
