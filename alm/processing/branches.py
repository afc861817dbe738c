"""Attention masks of rows with a shared prefix, followed by several branches.

Each branch attends to the prefix and to itself only. This works with causal LLMs of `transformers` that take a 4D mask.

Axis letters: R rows, L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alm.common.errors import ConfigError

_SLIDING = "sliding_attention"


def branch_masks(config: Any, branches: Tensor, position_ids: Tensor, dtype: torch.dtype) -> Any:
    """The attention mask of rows with branches, as the LLM takes it.

    Args:
        config: The LLM's config.
        branches: (R, L, 2) long: the sequence of a row that a token belongs to, and its branch; branch 0 is the prefix,
            which all branches of the sequence see.
        position_ids: (R, L) long, as if each branch alone followed the prefix; sliding windows are measured by them.
        dtype: Dtype of the LLM's activations.

    Returns:
        (R, 1, L, L), added to the attention scores; for an LLM with windows in some layers, a mask per kind of layer.
    """
    sequence, branch = branches.unbind(-1)
    length = sequence.shape[1]
    allowed = (sequence[:, :, None] == sequence[:, None]) & (
        (branch[:, None] == 0) | (branch[:, :, None] == branch[:, None])
    )
    allowed &= torch.ones(length, length, dtype=torch.bool, device=allowed.device).tril()
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return _added(allowed, dtype)
    near = position_ids[:, :, None] - position_ids[:, None] < window
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return _added(allowed & near, dtype)
    if _SLIDING not in kinds:
        return _added(allowed, dtype)
    return {kind: _added(allowed & near if kind == _SLIDING else allowed, dtype) for kind in set(kinds)}


def _added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def same_logits(found: Tensor, wanted: Tensor) -> bool:
    """Whether two computations of the same logits agree as far as their precision allows."""
    tolerance = 1e-4 if found.dtype == torch.float32 else 5e-2
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@torch.no_grad()
def check_branches(llm: Any, option: str) -> None:
    """Check on a few tokens that the branches of a row do not see each other, and see the prefix.

    Args:
        llm: The LLM.
        option: The option that needs it, for the message.

    Raises:
        ConfigError: The LLM cannot use such a mask.
    """
    embeddings = llm.get_input_embeddings()
    ids = torch.arange(1, 9, device=embeddings.weight.device)[None] % embeddings.num_embeddings
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5]], device=ids.device)
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]], device=ids.device)
    branches = torch.stack([torch.zeros_like(branch), branch], dim=-1)
    was_training = llm.training
    llm.eval()
    made = embeddings(ids)
    try:
        mask = branch_masks(llm.config, branches, positions, made.dtype)
        together = llm(
            inputs_embeds=made, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        alone = torch.cat([made[:, :3], made[:, 5:]], dim=1)
        wanted = llm(
            inputs_embeds=alone, position_ids=positions[:, [0, 1, 2, 5, 6, 7]], use_cache=False
        ).logits
        found = torch.cat([together[:, :3], together[:, 5:]], dim=1)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"{option}: {type(llm).__name__} does not take a 4D attention mask ({type(error).__name__}); remove it"
        ) from error
    finally:
        llm.train(was_training)
    if not same_logits(found, wanted):
        raise ConfigError(
            f"{option}: {type(llm).__name__} ({llm.config._attn_implementation} attention) does not keep the branches "
            "of a row apart; remove it"
        )
