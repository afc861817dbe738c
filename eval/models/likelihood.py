"""Answers by likelihood: ranks the given choices by their probability as the answer.

A prompt with its audio is computed once; all choices share its key-value cache and are scored in batches.
Axis letters: B prompts, L prompt tokens, R rows (a prompt with one of its choices), K tokens of a choice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from alm.common.errors import in_samples
from eval.errors import EvaluationError

Message = dict[str, str]

NORMALISATIONS = ("length", "corrected", "sum")
"""Normalisations of log-likelihoods: per token; minus that of the choice after a neutral prompt; none."""

# The neutral prompt of the correction (Holtzman et al. 2021, "Surface Form Competition").
NEUTRAL_PROMPT = "Answer:"
# Rows of one forward pass over choices; bounds the memory of the copied caches.
_ROWS = 64


def rank_choices(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Message]],
    audios: Sequence[Sequence[np.ndarray]],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: int = 16,
    normalise: str = "length",
) -> Iterator[tuple[int, str, list[float]]]:
    """Score every choice as the answer to its conversation.

    Args:
        model: The audio-language model.
        processor: Its processor.
        conversations: One list of messages per sample, ending with a user turn.
        audios: Per sample its clips, mono float32 at the processor's sample rate.
        choices: Per sample the answers to compare, at least one.
        batch_size: Prompts per batch.
        normalise: One of `NORMALISATIONS`.

    Yields:
        (index of the sample, the choice with the best score, one score per choice; higher is better).

    Raises:
        EvaluationError: A sample without choices, or an unknown normalisation.
        UserError: A prompt with a choice does not fit into the LLM's context; the error's `sample` is its index.
    """
    if normalise not in NORMALISATIONS:
        raise EvaluationError(f"normalise is {normalise!r}; expected one of {', '.join(NORMALISATIONS)}")
    for index, given in enumerate(choices):
        if not given:
            raise EvaluationError(f"sample {index} has no choices to rank; generate its answer")
    tokens = _ChoiceTokens(processor)
    neutral: dict[str, float] = {}
    if normalise == "corrected":
        distinct = list(dict.fromkeys(text for given in choices for text in given))
        prompt = [{"role": "user", "content": NEUTRAL_PROMPT}]
        found = _log_likelihoods(model, processor, [prompt], [[]], [distinct], tokens)
        neutral = dict(zip(distinct, found[0], strict=True))
    order = sorted(range(len(conversations)), key=lambda i: -sum(len(clip) for clip in audios[i]))
    for start in range(0, len(order), batch_size):
        at = order[start : start + batch_size]
        with in_samples(at):
            found = _log_likelihoods(
                model,
                processor,
                [conversations[i] for i in at],
                [audios[i] for i in at],
                [choices[i] for i in at],
                tokens,
            )
        for index, sums in zip(at, found, strict=True):
            scores = [
                total / len(tokens(text)) if normalise == "length" else total - neutral.get(text, 0.0)
                for text, total in zip(choices[index], sums, strict=True)
            ]
            yield index, choices[index][int(np.argmax(scores))], scores


class _ChoiceTokens:
    """Token ids of choices as the assistant's whole turn, its end included: no choice is a prefix of another."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._kept: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        if text not in self._kept:
            turns = [{"role": "user", "content": NEUTRAL_PROMPT}, {"role": "assistant", "content": text}]
            said = self._processor.encode_conversation(turns)
            self._kept[text] = [
                one for one, label in zip(said.ids, said.labels, strict=True) if label != -100
            ]
        return self._kept[text]


@torch.inference_mode()
def _log_likelihoods(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Message]],
    audios: Sequence[Sequence[np.ndarray]],
    choices: Sequence[Sequence[str]],
    tokens: Callable[[str], list[int]],
) -> list[list[float]]:
    """Sum of the log-probabilities of each choice's tokens, per conversation."""
    from alm.model import positions  # not on top: listing benchmarks must not import transformers' models

    model.eval()
    batch = processor.apply_chat_template(
        conversations,
        audio=audios,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        n_new_tokens=max(len(tokens(text)) for given in choices for text in given),
    ).to(model.device)
    mask = batch.pop("attention_mask")  # (B, L), padded on the left
    read = model.llm(
        inputs_embeds=model.embed(**batch),
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=True,
        logits_to_keep=1,
    )
    first = read.logits[:, -1].float().log_softmax(-1)  # (B, V)
    rows = [(prompt, tokens(text)) for prompt, given in enumerate(choices) for text in given]
    # Choices of similar length share a pass, so that there is little padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for start in range(0, len(order), _ROWS):
        at = order[start : start + _ROWS]
        owner = torch.tensor([rows[i][0] for i in at], device=mask.device)  # (R,)
        ids = [rows[i][1] for i in at]
        sums[at] = _continue(model, read[model.cache_name], first, mask, owner, ids).cpu().double()
    found: list[list[float]] = [[] for _ in choices]
    for (prompt, _), total in zip(rows, sums.tolist(), strict=True):
        found[prompt].append(total)
    return found


def _continue(
    model: Any, cache: Any, first: torch.Tensor, mask: torch.Tensor, owner: torch.Tensor, ids: list[list[int]]
) -> torch.Tensor:
    """Log-likelihoods (R,) of token rows, each continuing its owner's prompt."""
    width = max(map(len, ids))
    padded = torch.zeros((len(ids), width), dtype=torch.long, device=mask.device)  # (R, K)
    said = torch.zeros((len(ids), width), dtype=torch.bool, device=mask.device)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = torch.tensor(one, device=mask.device)
        said[row, : len(one)] = True
    total = first[owner, padded[:, 0]]  # the prompt's own last position gives the first token
    if width == 1:
        return total
    # The last token is only predicted, never read.
    read, seen = padded[:, :-1], said[:, :-1]
    start = mask.sum(-1)[owner]  # (R,)
    out = model.llm(
        inputs_embeds=model.get_input_embeddings()(read),
        attention_mask=torch.cat([mask[owner], seen.to(mask.dtype)], dim=1),
        position_ids=start[:, None] + torch.arange(width - 1, device=mask.device),
        use_cache=True,
        **{model.cache_name: _selected(cache, owner)},
    )
    later = out.logits.float().log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0]  # (R, K - 1)
    result: torch.Tensor = total + (later * said[:, 1:]).sum(-1)
    return result


def _selected(cache: Any, owner: torch.Tensor) -> Any:
    """A copy of a cache with the rows of the given prompts; the cache itself stays as it is."""
    from transformers import DynamicCache

    if type(cache) is not DynamicCache or any(getattr(one, "is_sliding", False) for one in cache.layers):
        raise EvaluationError(
            f"ranking shares the prompt through a key-value cache, which {type(cache).__name__} of this LLM does not "
            "allow; answer by generation"
        )
    copy = DynamicCache()
    layers: Sequence[Any] = cache.layers
    for number, layer in enumerate(layers):
        copy.update(layer.keys[owner], layer.values[owner], number)
    return copy
