"""Several samples in one row, none of which sees another: what padding would waste is computed on other samples.

The samples' positions start anew, and no mask is given: `transformers` then lets attention end where positions start
anew (a block-diagonal mask for SDPA and eager attention, sequence lengths for flash attention).

Axis letters: B samples, R rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alm.common.errors import ConfigError

IGNORE = -100


def fill_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Distribute samples over rows of `width` tokens: the longest first, each into the first row with room.

    Args:
        lengths: Tokens of each sample, at most `width`.
        width: Tokens of a row.

    Returns:
        The samples of each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, left in enumerate(room) if left >= lengths[sample]), None)
        if row is None:
            rows.append([])
            room.append(width)
            row = len(rows) - 1
        rows[row].append(sample)
        room[row] -= lengths[sample]
    return rows


def pack(batch: dict[str, Tensor], pad_token_id: int) -> tuple[dict[str, Tensor], list[int]]:
    """Put the samples of a padded batch into as few rows as the longest one is wide.

    Args:
        batch: `input_ids`, `attention_mask` and `labels` (B, L), padded on either side.
        pad_token_id: Fills the ends of the rows.

    Returns:
        `input_ids`, `labels` and `position_ids` (R, L), without a mask, and the samples in reading order. A
        sample's first token is no label: nothing of its own stands before it. At the end of a row every position is
        0, so each filling token is a sequence of its own.
    """
    real = batch["attention_mask"].bool()
    lengths = real.sum(dim=1).tolist()
    width = max(lengths)
    rows = fill_rows(lengths, width)
    out = {
        "input_ids": torch.full((len(rows), width), pad_token_id),
        "labels": torch.full((len(rows), width), IGNORE),
        "position_ids": torch.zeros(len(rows), width, dtype=torch.long),
    }
    for row, samples in enumerate(rows):
        at = 0
        for sample in samples:
            end = at + lengths[sample]
            out["input_ids"][row, at:end] = batch["input_ids"][sample][real[sample]]
            out["labels"][row, at:end] = batch["labels"][sample][real[sample]]
            out["labels"][row, at] = IGNORE
            out["position_ids"][row, at:end] = torch.arange(lengths[sample])
            at = end
    return out, [sample for samples in rows for sample in samples]


@torch.no_grad()
def check_packing(llm: Any) -> None:
    """Try on seven tokens whether the LLM keeps samples of one row apart.

    Raises:
        ConfigError: It does not.
    """
    embeddings = llm.get_input_embeddings()
    ids = torch.arange(1, 8, device=embeddings.weight.device)[None] % embeddings.num_embeddings
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=ids.device)
    was_training = llm.training
    llm.eval()
    together = llm(inputs_embeds=embeddings(ids), position_ids=positions, use_cache=False).logits[:, 3:]
    alone = llm(inputs_embeds=embeddings(ids[:, 3:]), position_ids=positions[:, 3:], use_cache=False).logits
    llm.train(was_training)
    tolerance = 1e-4 if together.dtype == torch.float32 else 5e-2
    if not torch.allclose(together, alone, rtol=tolerance, atol=tolerance * float(alone.abs().max())):
        raise ConfigError(
            f"data.pack: {type(llm).__name__} lets samples of one row see each other; set data.pack=false (and "
            "data.group_by_length=true to save on padding)"
        )
