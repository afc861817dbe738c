"""Any audio-text model of `transformers`: a directory or hub id, prompted through its processor's chat template."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from alm.checkpoint import model_id_of
from alm.common.errors import CheckpointError
from alm.common.json_text import read_json_object
from alm.common.pretrained import from_pretrained
from alm.common.text import error_line
from alm.data.records import AUDIO_MARKER
from alm.decoding import decoding_with
from alm.loading.files import resolve
from encoders.checkpoint import resolve_source
from encoders.devices import pick_device
from eval.errors import EvaluationError
from eval.models import own
from eval.models._local import LocalModel, check_decoding
from eval.models._truncation import TruncationLimit
from eval.models.base import Answer, Answerer, ModelKind, Opening, Prompt
from eval.models.families import Family, family_of

_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError)
"""The exceptions that processors raise for a prompt that they do not support."""


class AudioTextModel(LocalModel):
    """A loaded audio-text model of `transformers`.

    Args:
        model: The model, with a `generate` that takes `input_ids` and audio features.
        processor: Its processor.
        model_id: Its identity, such as `alm.checkpoint.model_id_of`.
        family: Prompts and options of its model family.
        **options: The other arguments of `LocalModel`.
    """

    def __init__(self, model: Any, processor: Any, model_id: str, family: Family, **options: Any) -> None:
        self._family, self.cannot_rank = family, family.cannot_rank
        super().__init__(model.eval(), processor, model_id, **options)
        limits = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._context = limits if isinstance(limits, int) and limits > 0 else None

        def alone(clip: np.ndarray) -> Any:
            return self._of_processor([Prompt([{"role": "user", "content": AUDIO_MARKER}], lambda: [clip])])

        self._truncation = TruncationLimit(alone, self.sample_rate)

    def _prepare(self) -> None:
        processor, own = self._processor, self._model.generation_config
        features = getattr(processor, "feature_extractor", None) or getattr(
            processor, "audio_processor", None
        )
        self.sample_rate = int(getattr(features, "sampling_rate", 16000))
        eos = processor.tokenizer.eos_token_id if own.eos_token_id in (None, []) else own.eos_token_id
        self._stop = sorted({*(eos if isinstance(eos, list) else [] if eos is None else [eos])})
        pad = processor.tokenizer.pad_token_id if own.pad_token_id is None else own.pad_token_id
        neutral = {
            "do_sample": False,
            "num_beams": 1,
            "eos_token_id": self._stop,
            "pad_token_id": self._stop[0] if pad is None and self._stop else pad,
        }
        self.differs = {key: value for key, value in self._options.items() if value != neutral.get(key)}
        self.decoding = {**neutral, **self._options, "max_new_tokens": self.max_new_tokens}

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Answer prompts in batches of similar length."""
        for rows in _batches(prompts, batch_size, self._family.equal_lengths):
            inputs = self._inputs([prompts[row] for row in rows], self.max_new_tokens)
            with decoding_with(self._model, dict(self.decoding)) as config:
                out = self._model.generate(**inputs, generation_config=config, **self._family.generate)
            said = out[:, inputs["input_ids"].shape[1] :]
            texts = self._processor.tokenizer.batch_decode(said, skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                yield row, Answer(text.strip(), extra=self._heard(prompts[row]))

    @torch.inference_mode()
    def rank(
        self, prompts: Sequence[Prompt], batch_size: int, normalise: str
    ) -> Iterator[tuple[int, Answer]]:
        """Rank choices by the likelihood of the whole assistant turn; the prompt is computed again for each choice."""
        kept: dict[str, float] = {}
        if normalise == "corrected":
            texts = list(dict.fromkeys(text for prompt in prompts for text in prompt.choices))
            neutral = Prompt([{"role": "user", "content": "Answer:"}])
            found = self._log_likelihoods([(neutral, text) for text in texts], batch_size)
            kept = dict(zip(texts, found, strict=True))
        for index, prompt in enumerate(prompts):
            sums = self._log_likelihoods([(prompt, text) for text in prompt.choices], batch_size)
            scores = [
                total / len(self._turn(text)) if normalise == "length" else total - kept.get(text, 0.0)
                for text, total in zip(prompt.choices, sums, strict=True)
            ]
            yield index, Answer(prompt.choices[int(np.argmax(scores))], scores, self._heard(prompt))

    def _turn(self, text: str) -> list[int]:
        """Token ids of a choice with the end of the turn, so that no choice is the start of another."""
        ids: list[int] = self._processor.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, *self._stop[:1]]

    def _log_likelihoods(self, rows: Sequence[tuple[Prompt, str]], batch_size: int) -> list[float]:
        found: list[float] = []
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            turns = [self._turn(text) for _, text in some]
            width = max(map(len, turns))
            inputs = self._inputs([prompt for prompt, _ in some], width)
            length = inputs["input_ids"].shape[1]
            said = torch.zeros((len(some), width), dtype=torch.long)  # (R, K)
            mask = torch.zeros_like(said)
            for row, turn in enumerate(turns):
                said[row, : len(turn)] = torch.tensor(turn)
                mask[row, : len(turn)] = 1
            said, mask = said.to(self._model.device), mask.to(self._model.device)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], said], dim=1)
            whole = torch.cat([inputs["attention_mask"], mask.to(inputs["attention_mask"].dtype)], dim=1)
            inputs["attention_mask"] = whole
            positions = (whole.long().cumsum(-1) - 1).clamp(min=0)
            logits = self._model(**inputs, position_ids=positions, use_cache=False).logits
            likely = logits[:, length - 1 : -1].float().log_softmax(-1)  # (R, K, V)
            each = likely.gather(-1, said[..., None])[..., 0] * mask
            found += each.cpu().double().sum(-1).tolist()
        return found

    def _inputs(self, prompts: Sequence[Prompt], n_new_tokens: int = 0) -> dict[str, Any]:
        inputs = self._of_processor(prompts)
        lengths = inputs["attention_mask"].sum(-1)
        longest = int(lengths.argmax())
        if self._context is not None and int(lengths[longest]) + n_new_tokens > self._context:
            raise EvaluationError(
                f"{prompts[longest].id or 'a question'}: {int(lengths[longest])} tokens and an answer of up to "
                f"{n_new_tokens} are more than the LLM's context of {self._context} tokens; shorten the recording or "
                "the question"
            )
        dtype = self._model.dtype
        return {
            key: value.to(self._model.device, dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def _of_processor(self, prompts: Sequence[Prompt]) -> Any:
        try:
            return self._family.inputs(self._processor, prompts)
        except _REFUSALS as error:
            if len(prompts) > 1:  # the one at fault is named
                for prompt in prompts:
                    self._of_processor([prompt])
            raise EvaluationError(
                f"{prompts[0].id or 'a question'}: the processor of this model does not take the prompt "
                f"({error_line(error)}); ask the model in a Python file with an ANSWERER"
            ) from error

    def _heard(self, prompt: Prompt) -> dict[str, Any]:
        """`heard_s`, in seconds, where the processor truncates a recording of the prompt."""
        lengths = [len(clip) for clip in prompt.clips()]
        kept = [self._truncation.n_kept(n_samples) for n_samples in lengths]
        return {"heard_s": round(sum(kept) / self.sample_rate, 1)} if kept != lengths else {}


def _batches(prompts: Sequence[Prompt], batch_size: int, equal_lengths: bool) -> Iterator[list[int]]:
    """Batches of indices of prompts: with equal numbers (or lengths) of recordings, and of similar length."""
    sizes = [[len(clip) for clip in prompt.clips()] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(sizes[i]), sum(sizes[i]), sizes[i]))

    def shape(i: int) -> Any:
        return (len(sizes[i]), *set(sizes[i])) if equal_lengths else len(sizes[i])

    for _, group in itertools.groupby(order, key=shape):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def _recognises(name: str) -> bool:
    # True also for a name that is no directory and no hub id; loading then reports it.
    return not name.endswith((".py", ".yaml")) and re.match(r"[A-Za-z][\w+.-]*:", name) is None


def _open(name: str, opening: Opening) -> Answerer:
    folder = resolve(name)
    if opening.trust_remote_code:
        resolve_source(name, patterns=["*.py"])
    if own.is_own(folder) or not (folder / "config.json").is_file():
        return own.MODEL_KIND.open(name, opening)
    check_decoding(opening.decoding)
    import transformers

    model_id = model_id_of(folder)
    config = read_json_object(folder / "config.json", CheckpointError, constants=True)
    model_type, named = str(config.get("model_type", "")), config.get("architectures")
    # The Auto classes for audio and text do not know every model that transformers has.
    family = family_of(model_type)
    asked = family.architecture or (str(named[0]) if isinstance(named, list) and named else "")
    known = getattr(transformers, asked, None) if asked else None
    loader = known or transformers.AutoModelForMultimodalLM
    trust = opening.trust_remote_code
    processor = from_pretrained(transformers.AutoProcessor, folder, role="processor", trust_remote_code=trust)
    if not hasattr(processor, "tokenizer"):
        raise CheckpointError(
            f"{folder}: {model_type} has no processor for audio and text; expected a chat model"
        )
    model = from_pretrained(loader, folder, role="model", trust_remote_code=trust, dtype="auto")
    if not hasattr(model, "generate"):
        raise CheckpointError(
            f"{folder}: {type(model).__name__} does not generate text; give an audio-text model"
        )
    model = model.to(opening.device or pick_device())
    return AudioTextModel(
        model, processor, model_id, family,
        max_new_tokens=opening.max_new_tokens, options=opening.decoding, home=folder,
    )  # fmt: skip


MODEL_KIND = ModelKind(
    "the directory or hub id of an audio-text model of transformers", _recognises, _open, order=90
)
