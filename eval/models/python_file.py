"""A model in a Python file: its `ANSWERER` is an `Answerer`, a class of one, or a function from prompts to texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.files import sha256_of
from alm.common.plugins import import_file
from eval.errors import EvaluationError
from eval.models.base import Answer, Answerer, ModelKind, Opening, Prompt

_EXPECTED = "a function that takes a list of prompts and returns their answers, or an eval.models.Answerer"


class FunctionModel(Answerer):
    """A function that answers batches of prompts.

    Args:
        function: Takes a list of prompts (`eval.models.Prompt`), returns one text per prompt. One with a parameter
            `max_new_tokens` gets the longest answer in tokens.
        model_id: Identity under which answers are reused.
        sample_rate: Rate in Hz at which it takes recordings.
        max_new_tokens: Longest answer in tokens.
    """

    cannot_rank = "a function from prompts to texts gives no likelihoods"

    def __init__(
        self, function: Callable[..., Any], model_id: str, sample_rate: int, max_new_tokens: int
    ) -> None:
        self.model_id, self.sample_rate, self.max_new_tokens = model_id, sample_rate, max_new_tokens
        self.differs, self.decoding = {}, {}
        takes_length = "max_new_tokens" in inspect.signature(function).parameters
        self._function = partial(function, max_new_tokens=max_new_tokens) if takes_length else function

    def generate(self, prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts in their order."""
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            texts = self._function(batch)
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise EvaluationError(
                    f"ANSWERER returned {type(texts).__name__}, expected a list of {len(batch)} texts"
                )
            if len(texts) != len(batch):
                raise EvaluationError(f"ANSWERER returned {len(texts)} answers to {len(batch)} prompts")
            yield from ((start + place, Answer(text)) for place, text in enumerate(texts))


def _open(name: str, opening: Opening) -> Answerer:
    file = Path(name).expanduser()
    module = import_file(file)
    # A file is imported once; if it changes meanwhile, the answers are still those of what was imported.
    content = module.__dict__.setdefault("_sha256", sha256_of(file)[:24])
    found = getattr(module, "ANSWERER", None)
    if opening.decoding:
        raise ConfigError(f"decoding: {name} decides itself how it decodes; remove it")
    if isinstance(found, type) and issubclass(found, Answerer):
        found = found()
    if isinstance(found, Answerer):
        for needed in ("model_id", "differs", "decoding"):
            if not hasattr(found, needed):
                raise ConfigError(f"{name}: ANSWERER has no {needed}; see eval.models.Answerer")
        found.max_new_tokens = opening.max_new_tokens
        return found
    if found is None or not callable(found) or inspect.isclass(found):
        raise ConfigError(f"{name}: assigns no ANSWERER; expected {_EXPECTED}")
    rate = getattr(found, "sample_rate", 16000)
    return FunctionModel(found, f"{file.name}:{content}", rate, opening.max_new_tokens)


MODEL_KIND = ModelKind(
    "a Python file that assigns ANSWERER", lambda name: name.endswith(".py"), _open, order=20
)
