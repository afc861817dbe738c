"""The contract between an evaluation and a model of any kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alm.data.records import AUDIO_MARKER

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """One question with its recordings.

    Attributes:
        messages: Turns with `role` and `content`, the last one of the user; `AUDIO_MARKER` in a content is the place of
            a recording.
        clips: Reads the recordings in that order, mono float32 (S,) at the model's sample rate.
        choices: The answers to choose from; empty for an open question.
        id: Names the question in messages.
    """

    messages: Sequence[Message]
    clips: Callable[[], list[np.ndarray]] = list
    choices: Sequence[str] = ()
    id: str = ""

    def content(self, of_clip: Callable[[np.ndarray], dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages as APIs and chat templates take them: contents as lists of text and audio items.

        Args:
            of_clip: Makes the item of a recording.
        """
        clips = iter(self.clips())
        messages = []
        for message in self.messages:
            items: list[dict[str, Any]] = []
            for number, text in enumerate(message["content"].split(AUDIO_MARKER)):
                if number:
                    items.append(of_clip(next(clips)))
                if text:
                    items.append({"type": "text", "text": text})
            messages.append({"role": message["role"], "content": items or [{"type": "text", "text": ""}]})
        return messages


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt.

    Attributes:
        text: The answer; for ranked choices the best of them.
        ranking: One score per choice, higher is better; None for a generated answer.
        extra: Further values for the line of the predictions file, for example the tokens an endpoint charged.
    """

    text: str
    ranking: Sequence[float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Answerer(ABC):
    """A model that answers questions about recordings.

    Attributes:
        model_id: Identity of the model, part of the key of stored answers; models that answer differently must differ
            in it.
        sample_rate: Rate in Hz at which it takes recordings.
        max_new_tokens: Longest answer in tokens.
        differs: Decoding settings, as JSON values, that make answers differ from those of plain greedy decoding. They
            are part of the keys of generated answers.
        decoding: All decoding settings that apply, for the scores.
        notes: Remarks on the model for readers of the scores.
        cannot_rank: Why the choices of a question cannot be ranked by likelihood; empty if they can.
        streams: Whether it takes all questions at once and reads their recordings when it needs them. Others get a few
            batches at a time.
        home: Where evaluations are written by default; None stands for `eval/<model>` in the working directory.
    """

    model_id: str
    sample_rate: int = 16000
    max_new_tokens: int = 64
    differs: Mapping[str, Any]
    decoding: Mapping[str, Any]
    notes: Sequence[str] = ()
    cannot_rank: str = ""
    streams: ClassVar[bool] = False
    home: Path | None = None

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts.

        Args:
            prompts: The prompts; some may be without recordings.
            batch_size: Prompts per batch.

        Yields:
            (index of the prompt, its answer), every prompt once, in any order.
        """

    def rank(
        self, prompts: Sequence[Prompt], batch_size: int, normalise: str
    ) -> Iterator[tuple[int, Answer]]:
        """Rank the choices of prompts by their likelihood.

        Args:
            prompts: Each with choices.
            batch_size: Prompts per batch.
            normalise: One of `eval.models.likelihood.NORMALISATIONS`.

        Yields:
            (index of the prompt, the best choice with the scores of all).
        """
        raise NotImplementedError(self.cannot_rank)

    def announce(
        self, prompts: Iterable[Prompt], seconds: float, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        """Called once before the first question: prints the estimated cost of the answers, or raises.

        Args:
            prompts: All prompts of the run.
            seconds: Length of their recordings together.
            earlier: Lines of the predictions file with the answers that are reused.
        """
        return None

    def remarks(self) -> list[str]:
        """Called after the last answer: remarks on this run for readers of the scores."""
        return []


@dataclass(frozen=True)
class Opening:
    """Options for opening a model.

    Attributes:
        device: Where a local model is put; None takes an accelerator (CUDA, XPU, NPU, MPS) where there is one.
        max_new_tokens: Longest answer in tokens.
        decoding: Settings in place of greedy decoding, as the user gave them.
        trust_remote_code: Run Python code that comes with a model.
        options: Settings of one kind of model by the name of the kind, for example of `endpoint`.
    """

    device: str | None = None
    max_new_tokens: int = 64
    decoding: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelKind:
    """A kind of model that can be evaluated; a file assigns it to `MODEL_KIND`.

    Attributes:
        form: How `--model` names one, for messages.
        recognises: Whether a name is of this kind.
        open: Opens the model of a name.
        order: Kinds are tried in ascending order; the first that recognises a name opens it.
    """

    form: str
    recognises: Callable[[str], bool]
    open: Callable[[str, Opening], Answerer]
    order: int = 100
