"""Packing: several samples in one row instead of padding, without attention between them.

The positions of each sample start at 0, and there is no attention mask: `transformers` then attends within each run of
positions alone (a block-diagonal mask for SDPA and eager attention, sequence lengths for flash attention).

Axis letters: B samples, R rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from alm.head import IGNORE
from alm.processing.branches import same_logits


def fill_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Distribute samples over rows of `width` tokens: the longest first, each into the first row with enough room.

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
    """Put the samples of a padded batch into few rows, each as wide as the longest sample.

    Args:
        batch: `input_ids`, `attention_mask` and `labels` (B, L), padded on either side.
        pad_token_id: Fills the ends of the rows.

    Returns:
        `input_ids`, `labels` and `position_ids` (R, L), without a mask, and the sample numbers in reading order. The
        first token of a sample is not a label: the token before it belongs to another sample. Every padding token at
        the end of a row has position 0, so that each is a sequence of its own.
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
    """Check on seven tokens that the LLM does not attend across the samples of a row.

    Raises:
        ConfigError: It attends across samples.
    """
    embeddings = llm.get_input_embeddings()
    ids = torch.arange(1, 8, device=embeddings.weight.device)[None] % embeddings.num_embeddings
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=ids.device)
    was_training = llm.training
    llm.eval()
    together = llm(inputs_embeds=embeddings(ids), position_ids=positions, use_cache=False).logits[:, 3:]
    alone = llm(inputs_embeds=embeddings(ids[:, 3:]), position_ids=positions[:, 3:], use_cache=False).logits
    llm.train(was_training)
    if not same_logits(together, alone):
        raise ConfigError(
            f"data.pack: {type(llm).__name__} attends across the samples of a packed row; set data.pack=false (and "
            "data.group_by_length=true to save on padding)"
        )
