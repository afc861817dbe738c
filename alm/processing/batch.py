"""Encoded samples, the options and padding of batches, and clips shared by several samples of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from alm.head import IGNORE

Collate = Callable[[Sequence[Any]], tuple[Sequence[int], dict[str, torch.Tensor]]]
"""Turns C different clips into their lengths in samples, and the model's audio inputs."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One sample as tokens."""

    ids: list[int]
    """Token ids, a placeholder per audio token."""
    labels: list[int]
    """The ids again, `IGNORE` where nothing is supervised."""
    spans: list[tuple[int, int]]
    """Start and end of every clip's placeholders."""

    def cut(self, limit: int) -> Encoded:
        """The first `limit` tokens; a clip that the limit would split is dropped entirely."""
        for start, end in self.spans:
            if start < limit < end:
                limit = start
        return Encoded(
            self.ids[:limit], self.labels[:limit], [span for span in self.spans if span[1] <= limit]
        )


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """Options of building a batch; see `AudioLanguageProcessor.__call__` and `apply_chat_template`."""

    text: dict[str, Any]
    """Arguments about the text, merged."""
    audio: dict[str, Any]
    """Arguments of the feature extractor, merged."""
    supervise: str
    """Which tokens are labelled: those of `assistant` turns, or of `all` text."""
    is_prompt: bool
    """Whether the model continues the samples: they are padded on the left, and never cut."""
    output_labels: bool = False
    assistant_masks: bool = False
    mm_token_type_ids: bool = False
    collate: Collate | None = None
    encoded: Sequence[Encoded | None] | None = None
    n_new_tokens: int = 0


def pad_rows(rows: list[list[int]], value: int, side: str, width: int) -> torch.Tensor:
    """Rows of different length as one (B, width) long tensor."""
    filled = []
    for row in rows:
        fill = [value] * (width - len(row))
        filled.append(fill + row if side == "left" else row + fill)
    return torch.tensor(filled, dtype=torch.long)


def clip_key(clip: Any) -> Any:
    """The key that identifies equal clips: the `id` of an array; any other object is its own key."""
    return id(clip) if isinstance(clip, np.ndarray) else clip


def distinct(clips: Iterable[Any]) -> dict[Any, Any]:
    """The different clips by key, in order of first use."""
    return {clip_key(clip): clip for clip in clips}


def first_unlabelled(rows: Sequence[Encoded]) -> int | None:
    """Index of the first sample without any label; None if every sample has labels."""
    return next((i for i, row in enumerate(rows) if all(label == IGNORE for label in row.labels)), None)
