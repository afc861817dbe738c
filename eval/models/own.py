"""A model of this toolkit: its directory, in our own or the published AudioMosaic-LTU layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alm.checkpoint import model_id_of
from alm.common.errors import CheckpointError, naming_samples
from alm.common.json_text import read_json_object
from alm.decoding import beyond_greedy, decoding_settings
from alm.generation import generate_answers
from alm.loading.files import resolve
from alm.ltu import is_ltu
from eval.models._local import LocalModel, check_decoding
from eval.models.base import Answer, Answerer, ModelKind, Opening, Prompt
from eval.models.likelihood import rank_choices


class OwnModel(LocalModel):
    """A loaded model of this toolkit."""

    def _prepare(self) -> None:
        self.sample_rate = self._processor.sample_rate
        self.decoding = decoding_settings(self._model, self._processor, self.max_new_tokens, **self._options)
        self.differs = beyond_greedy(self._model, self._processor, dict(self.decoding))

    @property
    def model(self) -> Any:
        """The loaded model."""
        return self._model

    def generate(self, prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts in batches of similar length."""
        with naming_samples([prompt.id for prompt in prompts]):
            for index, text in generate_answers(
                self._model,
                self._processor,
                [prompt.messages for prompt in prompts],
                [prompt.clips() for prompt in prompts],
                max_new_tokens=self.max_new_tokens,
                batch_size=batch_size,
                **self._options,
            ):
                yield index, Answer(text)

    def rank(
        self, prompts: Sequence[Prompt], batch_size: int, normalise: str
    ) -> Iterator[tuple[int, Answer]]:
        """Rank choices; see `eval.models.likelihood`."""
        with naming_samples([prompt.id for prompt in prompts]):
            for index, choice, scores in rank_choices(
                self._model,
                self._processor,
                [prompt.messages for prompt in prompts],
                [prompt.clips() for prompt in prompts],
                [prompt.choices for prompt in prompts],
                batch_size=batch_size,
                normalise=normalise,
            ):
                yield index, Answer(choice, scores)


def _recognises(name: str) -> bool:
    folder = Path(name).expanduser()
    if not os.path.isdir(folder):
        return False
    return is_own(folder)


def is_own(folder: Path) -> bool:
    """Whether a directory holds a model of this toolkit."""
    from alm.configuration import AudioLanguageConfig

    config = folder / "config.json"
    if not config.is_file():
        return is_ltu(folder)
    kind = read_json_object(config, CheckpointError, constants=True).get("model_type")
    return kind == AudioLanguageConfig.model_type or is_ltu(folder)


def _open(name: str, opening: Opening) -> Answerer:
    import alm

    check_decoding(opening.decoding)
    folder = resolve(name)
    # Before the model is loaded: the directory may change or disappear while questions are answered.
    model_id = model_id_of(folder)
    model, processor = alm.load(folder, opening.device, opening.trust_remote_code)
    return OwnModel(model, processor, model_id, opening.max_new_tokens, opening.decoding, folder)


MODEL_KIND = ModelKind("the directory of a model of this toolkit", _recognises, _open, order=10)
