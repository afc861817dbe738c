"""Texts about a scene: captions, questions with short answers, and descriptions in words.

Everything is built from the names of a bank's kinds, so it fits generated events and any labelled recordings.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alm.common.errors import ConfigError
from alm.data.scenes.phrases import (
    CAPTION_TEMPLATES,
    CHOICE_QUESTIONS,
    COUNT_ALL_QUESTIONS,
    COUNT_KIND_QUESTIONS,
    NUMBER_WORDS,
    ORDER_QUESTIONS,
    PRESENCE_QUESTIONS,
    PROSE_TEMPLATES,
    SILENCE_WORDS,
    WHAT_QUESTIONS,
)
from alm.data.scenes.scene import Scene

QUESTION_KINDS = ("what", "how_many", "order", "presence", "choice")

_PRESENCE_SHARE = 0.175  # share of presence questions; low, because random answers score 50 % on them
_N_CHOICES = 4
_N_CAPTIONS = 5
# Names without article or plural; words in -ing and plurals are recognised by their ending.
_MASS_NOUNS = frozenset(
    "rain wind thunder water noise music speech laughter applause traffic static hail fire surf".split()
)


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: One of `QUESTION_KINDS`.
        question: Its text, without the choices.
        answer: The short right answer; for multiple choice the text of the right option.
        choices: The options of a multiple-choice question.
    """

    kind: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimelineNoise:
    """Label noise of a timeline.

    Attributes:
        drop: Probability that a step with a sound is labelled as silent.
        boundary: A sound is named if it covers more than 0.5 ± `boundary` (uniform) of the step.
    """

    drop: float = 0.02
    boundary: float = 0.2


@dataclass(frozen=True)
class Language:
    """Words for the kinds of a bank.

    Args:
        kinds: All kind names of the bank, at least two.

    Raises:
        ConfigError: Fewer than two kinds: there would be nothing to ask.
    """

    kinds: tuple[str, ...]
    _words: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.kinds)) < 2:
            raise ConfigError(
                f"got the kinds {list(self.kinds)}; expected at least two different ones to ask about"
            )
        counts = Counter(word for kind in self.kinds for word in set(kind.split("_")))
        words = {}
        for kind in self.kinds:
            own = [word for word in kind.split("_") if counts[word] == 1]
            words[kind] = own[-1] if own else self.name(kind)
        object.__setattr__(self, "_words", words)

    def name(self, kind: str) -> str:
        """`click_train` → `click train`."""
        return kind.replace("_", " ")

    def word(self, kind: str) -> str:
        """The shortest name that no other kind shares: `rising_chirp` → `rising`."""
        return self._words[kind]

    def phrase(self, kind: str, again: bool = False) -> str:
        """The kind with its article: `a bell`, `an alarm`, `rain`; `again` gives `another bell`."""
        name = self.name(kind)
        if not is_countable(kind):
            return f"more {name}" if again else name
        return f"another {name}" if again else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

    def captions(self, scene: Scene) -> list[str]:
        """Five differently worded captions.

        Args:
            scene: The scene.

        Returns:
            Five sentences that name the same sounds in the same order; the scene's id fixes the wordings.
        """
        wordings = self.caption_wordings(scene)
        start = sum(scene.id.encode("utf-8"))
        return [wordings[(start + i) % len(wordings)] for i in range(_N_CAPTIONS)]

    def caption_wordings(self, scene: Scene) -> list[str]:
        """Every caption there is for a scene; five or more."""
        templates = CAPTION_TEMPLATES[min(len(scene.events), max(CAPTION_TEMPLATES))]
        return [self._fill(template, scene) for template in templates]

    def questions(self, scene: Scene, rng: np.random.Generator, n_questions: int) -> list[Question]:
        """Draw different questions about a scene.

        Args:
            scene: The scene.
            rng: The only source of randomness.
            n_questions: Largest number of questions; a simple scene allows fewer.

        Returns:
            The questions. Yes and no are equally likely, right options are at random positions, and at most
            a fifth are presence questions, because random answers score 50 % on them.
        """
        n_presence = int(_PRESENCE_SHARE * n_questions + rng.random())
        candidates = self._other_questions(scene, rng)
        order = rng.permutation(len(candidates))
        drawn = [candidates[index] for index in order[: n_questions - n_presence]]
        drawn += [self.presence(scene, rng) for _ in range(min(n_presence, n_questions - len(drawn)))]
        return list({question.question + str(question.choices): question for question in drawn}.values())

    def what(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Ask which sound a scene of a single sound has."""
        return Question("what", _pick(WHAT_QUESTIONS, rng), self.phrase(scene.kinds[0]))

    def how_many(self, scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
        """Ask how many sounds there are, or how many of a kind."""
        if kind is None:
            return Question("how_many", _pick(COUNT_ALL_QUESTIONS, rng), NUMBER_WORDS[len(scene.events)])
        text = _pick(COUNT_KIND_QUESTIONS, rng).format(name=self.name(kind), phrase=self.phrase(kind))
        return Question("how_many", text, NUMBER_WORDS[scene.kinds.count(kind)])

    def order(self, scene: Scene, rng: np.random.Generator, position: str) -> Question:
        """Ask which sound is `first`, `second` or `last`."""
        kind = scene.kinds[{"first": 0, "second": 1, "last": -1}[position]]
        return Question("order", _pick(ORDER_QUESTIONS[position], rng), self.phrase(kind))

    def presence(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Ask whether a kind can be heard; yes and no are equally likely."""
        absent = [kind for kind in self.kinds if kind not in scene.kinds]
        present = rng.random() < 0.5 or not absent
        kind = _pick(scene.kinds if present else absent, rng)
        text = _pick(PRESENCE_QUESTIONS, rng).format(name=self.name(kind), phrase=self.phrase(kind))
        return Question("presence", text, "yes" if present else "no")

    def choice(self, scene: Scene, rng: np.random.Generator, position: str | None = None) -> Question:
        """Ask which of four options can be heard, or is `first`, `second` or `last`.

        With a position, the scene's other sounds are wrong options, so the order must be recognised.
        """
        if position is None:
            right, wrong = _pick(scene.kinds, rng), []
        else:
            right = scene.kinds[{"first": 0, "second": 1, "last": -1}[position]]
            wrong = sorted(set(scene.kinds) - {right})
        absent = [kind for kind in self.kinds if kind not in scene.kinds]
        wrong = wrong[: _N_CHOICES - 1]
        order = rng.permutation(len(absent))[: _N_CHOICES - 1 - len(wrong)]
        options = [right, *wrong, *(absent[index] for index in order)]
        choices = tuple(self.phrase(options[index]) for index in rng.permutation(len(options)))
        text = _pick(ORDER_QUESTIONS[position] if position else CHOICE_QUESTIONS, rng)
        return Question("choice", text, self.phrase(right), choices)

    def describe(self, scene: Scene, rng: np.random.Generator, n_steps: int | None = None) -> str:
        """Describe a scene in words; the description takes the place of the audio tokens.

        Args:
            scene: The scene.
            rng: The only source of randomness.
            n_steps: Length of a timeline; None draws timelines of 8 to 32 steps and, now and then, prose.

        Returns:
            One word per time step ("silence bell bell silence rain …"), or a sentence.
        """
        if n_steps is None:
            if rng.random() < 0.1:
                templates = PROSE_TEMPLATES[min(len(scene.events), max(PROSE_TEMPLATES))]
                return self._fill(_pick(templates, rng), scene)
            n_steps = int(rng.choice((8, 12, 16, 16, 24, 32)))
        return " ".join(self.timeline(scene, rng, n_steps, TimelineNoise()))

    def timeline(
        self, scene: Scene, rng: np.random.Generator, n_steps: int, noise: TimelineNoise | None = None
    ) -> list[str]:
        """One word per time step: the kind that sounds then, or a word for silence.

        Args:
            scene: The scene.
            rng: The only source of randomness.
            n_steps: How many steps the scene is cut into.
            noise: Label noise; None adds none. Of two overlapping kinds either may be named, with or without noise.

        Returns:
            `n_steps` words.
        """
        step_s = scene.duration_s / n_steps
        starts = np.arange(n_steps) * step_s
        onsets = np.array([event.onset_s for event in scene.events])[:, None]
        ends = np.array([event.end_s for event in scene.events])[:, None]
        # (n_events, n_steps): the covered share of each step
        cover = np.clip(np.minimum(ends, starts + step_s) - np.maximum(onsets, starts), 0, None) / step_s
        spread = noise.boundary if noise else 0.0
        named = cover > 0.5 + spread * rng.uniform(-1, 1, cover.shape)
        silence = _pick(SILENCE_WORDS, rng)
        if noise:
            named &= rng.random(n_steps) >= noise.drop
        chosen = np.where(named.any(axis=0), (named * rng.random(named.shape)).argmax(axis=0), -1)
        for index in range(len(scene.events)):
            if index not in chosen:  # every event is heard somewhere
                alone = cover[index] - (chosen >= 0) * (np.bincount(chosen + 1, minlength=2)[chosen + 1] < 2)
                chosen[int(np.argmax(alone))] = index
        words = [self.word(kind) for kind in scene.kinds]
        return [words[index] if index >= 0 else silence for index in chosen]

    def _other_questions(self, scene: Scene, rng: np.random.Generator) -> list[Question]:
        """One question of each form that the scene allows, except presence."""
        if scene.whole_clip:
            return [self.what(scene, rng), self.choice(scene, rng)]
        positions = ("first", "second", "last") if len(scene.events) > 2 else ("first", "second")
        questions = [self.how_many(scene, rng), self.choice(scene, rng)]
        counts = Counter(scene.kinds)
        # Mostly asked if a kind is repeated; otherwise nearly every answer would be "one".
        kind = _pick([k for k in counts if counts[k] == max(counts.values())], rng)
        if counts[kind] > 1 or rng.random() < 0.1:
            questions.append(self.how_many(scene, rng, kind))
        if len(scene.events) == 1:
            return [*questions, self.what(scene, rng)]
        questions += [self.order(scene, rng, position) for position in positions]
        if len(set(scene.kinds)) > 1:
            questions.append(self.choice(scene, rng, _pick(positions, rng)))
        return questions

    def _fill(self, template: str, scene: Scene) -> str:
        """Put the scene's sounds, in order, into a template, and begin it with a capital."""
        phrases = []
        for index, kind in enumerate(scene.kinds):
            phrases.append(self.phrase(kind, again=kind in scene.kinds[:index]))
        text = template.format(
            *phrases,
            all=", ".join(phrases[:-1]) + f" and {phrases[-1]}",
            then=", then ".join(phrases),
            count=NUMBER_WORDS[len(phrases)],
        )
        return text[0].upper() + text[1:]


def is_countable(kind: str) -> bool:
    """Whether a kind takes an article: False for mass nouns, plurals and words in -ing (`rain`, `sea_waves`)."""
    last = kind.split("_")[-1]
    plural = re.search(r"[^sui]s$", last) is not None
    return not (last in _MASS_NOUNS or plural or re.search(r"[a-z]{2,}ing$", last))


def _pick(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
