"""Does the model listen? Its loss with the right audio, and with another clip's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from alm.manifest import Record
from train.conversations import ConversationCollator, ConversationDataset


def with_other_audio(samples: Sequence[dict[str, Any]], clip_names: Sequence[str]) -> list[dict[str, Any]]:
    """Every sample with the audio of the next sample that is about another clip and has as many clips.

    Args:
        samples: Dataset items.
        clip_names: The clip each sample is about.

    Returns:
        As many samples; one that no other clip can serve keeps no place in the comparison and is left as it is.
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


@torch.no_grad()
def listening_losses(
    model: Any, collator: ConversationCollator, records: Sequence[Record], batch_size: int
) -> dict[str, float]:
    """Mean loss per supervised token on held-out records, with the right and with another clip's audio.

    Returns:
        ``loss`` and ``loss_other_audio``; a model that does not listen has them equal.
    """
    dataset = ConversationDataset(records)
    samples = [dataset[i] for i in range(len(dataset))]
    versions = {"loss": samples, "loss_other_audio": with_other_audio(samples, [r.clip for r in records])}
    was_training = model.training
    model.eval()
    result = {}
    for name, version in versions.items():
        total, count = 0.0, 0
        for start in range(0, len(version), batch_size):
            batch = collator(version[start : start + batch_size])
            batch = {key: value.to(model.device) for key, value in batch.items()}
            n = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch).loss) * n
            count += n
        result[name] = total / max(count, 1)
    model.train(was_training)
    return result
