"""Control of whether the model uses the audio: its loss with the right audio, and with another clip's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from alm.data.records import Record
from train.processes import rank_and_world
from train.tune.conversations import ConversationCollator, ConversationDataset


def with_other_audio(samples: Sequence[dict[str, Any]], clip_names: Sequence[str]) -> list[dict[str, Any]]:
    """Give every sample the audio of the next sample that is about another clip and has as many clips.

    Args:
        samples: Dataset items.
        clip_names: The clip that each sample is about.

    Returns:
        As many samples. A sample for which there is no other audio keeps its own.
    """
    swapped = []
    for i, sample in enumerate(samples):
        others = (
            samples[(i + k) % len(samples)]["audio"]
            for k in range(1, len(samples))
            if clip_names[(i + k) % len(samples)] != clip_names[i]
            and len(samples[(i + k) % len(samples)]["audio"]) == len(sample["audio"])
        )
        swapped.append({**sample, "audio": next(others, sample["audio"])})
    return swapped


def audio_control_losses(
    model: Any, collator: ConversationCollator, records: Sequence[Record], batch_size: int
) -> dict[str, float]:
    """Compute the mean loss per supervised token on held-out records, with the right and with another clip's audio.

    Returns:
        `loss` and `loss_other_audio`; they are equal for a model that ignores the audio.
    """
    samples = samples_of(records)
    others = with_other_audio(samples, [record.clip for record in records])
    return {
        "loss": mean_loss(model, collator, samples, batch_size),
        "loss_other_audio": mean_loss(model, collator, others, batch_size),
    }


def samples_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return records as samples; a captioning record always has the same caption."""
    dataset = ConversationDataset(records)
    return [dataset[i] for i in range(len(dataset))]


@torch.no_grad()
def mean_loss(
    model: Any, collator: ConversationCollator, samples: Sequence[dict[str, Any]], batch_size: int
) -> float:
    """Compute the mean loss per supervised token.

    The batches are distributed over the processes; every process must call this.
    """
    rank, world = rank_and_world()
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64)  # loss, supervised tokens
    n_batches = -(-len(samples) // batch_size)
    for first in range(
        0, n_batches, world
    ):  # equally many passes in every process: ZeRO-3 makes each a collective
        number = min(first + rank, n_batches - 1)
        batch = collator(samples[number * batch_size : (number + 1) * batch_size])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        n = int((batch["labels"][:, 1:] != -100).sum())
        loss = float(model(**batch).loss)
        if first + rank < n_batches:
            sums += torch.tensor([loss * n, n], dtype=torch.float64)
    model.train(was_training)
    if world > 1:
        sums = sums.to(model.device)
        dist.all_reduce(sums)
    return float(sums[0] / sums[1].clamp(min=1))
