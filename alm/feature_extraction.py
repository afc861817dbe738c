"""Clips as the model's audio inputs: padded waveforms and their mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from encoders.audio import pad_batch


def collate_waveforms(clips: Sequence[np.ndarray]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Pad clips to one length.

    Args:
        clips: C arrays (S_i,), mono float32.

    Returns:
        The lengths in samples, and the model's audio inputs: `input_values` (C, S) float32, and `padding_mask` (C, S)
        bool, False after the end of a clip.
    """
    padded, lengths = pad_batch(clips)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return lengths.tolist(), {"input_values": padded, "padding_mask": mask}
