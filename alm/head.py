"""The LLM's loss, computed from logits at supervised positions only.

With a vocabulary of 150,000 tokens, the logits of all positions would need more memory than all activations, but only
the answers, a small part of the sequence, have labels.

Axis letters: B batch, L tokens, R supervised positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

IGNORE = -100  # transformers' label for positions without loss
CHUNK = 1024  # positions whose logits are held at once: 0.6 GB in float32 with a vocabulary of 150,000


def causal_lm_loss(
    llm: Any,
    labels: Tensor,
    *,
    chunk: int = CHUNK,
    num_items_in_batch: Tensor | int | None = None,
    **inputs: Any,
) -> CausalLMOutputWithPast:
    """The LLM's own loss, with logits computed only at supervised positions.

    Args:
        llm: Any causal LLM of `transformers`.
        labels: (B, L) long, -100 at positions without loss; the label at position n is predicted from the positions
            before n.
        chunk: Supervised positions whose logits are computed at once; with several chunks they are recomputed in the
            backward pass. 0 computes all at once.
        num_items_in_batch: Divisor of the summed loss, in place of the number of labels in this batch. The Trainer
            passes it, so that every token has the same weight over accumulated batches and processes.
        **inputs: Inputs of the LLM: `inputs_embeds` or `input_ids`, `attention_mask`, ...

    Returns:
        The loss, without logits. If the LLM's head cannot be run separately, the LLM's own output with all logits.
    """
    if not head_runs_alone(llm):
        whole: CausalLMOutputWithPast = llm(
            **inputs, labels=labels, num_items_in_batch=num_items_in_batch, use_cache=False
        )
        return whole
    hidden = llm.base_model(**inputs, use_cache=False).last_hidden_state  # (B, L, D)
    targets = labels[:, 1:]
    supervised = targets != IGNORE
    rows, words = hidden[:, :-1][supervised], targets[supervised]  # (R, D), (R,)
    if is_deepspeed_zero3_enabled():
        # Each run of the head is a collective of all processes: with different numbers of runs they would deadlock.
        chunk = 0
    total = rows.sum(dtype=torch.float32) * 0.0  # keeps the graph where nothing is supervised
    for part, word in zip(
        rows.split(chunk or max(len(rows), 1)), words.split(chunk or max(len(words), 1)), strict=True
    ):
        again = torch.is_grad_enabled() and len(part) < len(rows)
        arguments = (llm, part, word)
        total = total + (
            checkpoint(_summed, *arguments, use_reentrant=False) if again else _summed(*arguments)
        )
    count = num_items_in_batch if num_items_in_batch is not None else max(len(words), 1)
    return CausalLMOutputWithPast(loss=total / (count.to(total.device) if torch.is_tensor(count) else count))


def _summed(llm: Any, rows: Tensor, words: Tensor) -> Tensor:
    return cross_entropy(apply_head(llm, rows).float(), words, reduction="sum")


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it replaces a method for the time of a call
def apply_head(llm: Any, rows: Tensor) -> Tensor:
    """Logits (R, V) of hidden states (R, D) of the LLM's body.

    The LLM's own `forward` runs with a body that returns `rows`. So model-specific steps after the head (Gemma's
    soft-capping, Granite's and Cohere's scaling) are included.
    """
    logits, used = _with_body(llm, rows)
    assert used, "ask head_runs_alone first"
    return logits


@torch.compiler.disable  # type: ignore[untyped-decorator]
def head_runs_alone(llm: Any) -> bool:
    """Whether `apply_head` works for this LLM; tested once, on one position, and cached."""
    answer: bool | None = llm.__dict__.get("_alm_head_runs_alone")
    if answer is None:
        if llm.base_model is llm or getattr(llm.config, "output_router_logits", False):
            answer = False  # no body of its own, or a loss that is more than cross-entropy
        else:
            embeddings = llm.get_input_embeddings()
            with torch.no_grad():
                probe = embeddings(torch.zeros(1, dtype=torch.long, device=llm.device))
                answer = _with_body(llm, probe)[1]
        llm.__dict__["_alm_head_runs_alone"] = answer
    return answer


class _BodyOutput(BaseModelOutput):
    """Hidden states only; any other output of an LLM's body (cache, attentions, router logits) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _with_body(llm: Any, rows: Tensor) -> tuple[Tensor, bool]:
    """Run the LLM with its body replaced by `rows`; also whether the body was called at all."""
    body = llm.base_model
    used = []

    def hand_through(*_: Any, **__: Any) -> _BodyOutput:
        used.append(True)
        return _BodyOutput(last_hidden_state=rows[None])

    before: Callable[..., Any] | None = body.__dict__.get("forward")  # accelerate's hooks put one there
    body.forward = hand_through
    try:
        return llm(inputs_embeds=rows[None], use_cache=False).logits[0], bool(used)
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before
