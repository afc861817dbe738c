"""Contrastive batches larger than memory: the encoder runs in chunks, the loss sees the whole batch.

GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): encode
every chunk without keeping activations, compute the loss over all features, take its gradient at the features,
then encode chunk after chunk again, this time with activations, and backpropagate that gradient. A chunk's second
pass must repeat its first one exactly, so its random numbers are replayed.

PyTorch's non-reentrant checkpointing is that procedure inside autograd: one checkpoint per chunk. The gradient of
the features is cached by the engine, chunks are recomputed last to first, one at a time, each with the random
generator's and autocast's state of its first pass. Parameters get one gradient per step, so DistributedDataParallel,
DeepSpeed and gradient accumulation work as usual. Cost: one more forward pass of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[..., Tensor], chunk: int, *inputs: Tensor) -> Tensor:
    """Apply a function to a batch in chunks of rows, keeping the activations of one chunk at most.

    `encode` must compute every row by itself: layers that use the whole batch, for example BatchNorm, belong after it.

    Args:
        encode: Takes rows of the inputs, returns (rows, ...).
        chunk: Rows at a time; 0 takes the whole batch at once and keeps its activations.
        inputs: Tensors with the batch as first axis, all equally long.

    Returns:
        The result of `encode` on the whole batch, with the same gradients.
    """
    if not 0 < chunk < len(inputs[0]):
        return encode(*inputs)
    parts = zip(*(tensor.split(chunk) for tensor in inputs), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([encode(*part) for part in parts])
    return torch.cat(
        [checkpoint(encode, *part, use_reentrant=False, preserve_rng_state=True) for part in parts]
    )
