"""What a pretrained encoder knows, watched while it trains: kNN and a linear probe on a small labelled set.

The split is by fold, and clips of one source recording never lie on both sides. Axis letters: B clips, N tokens,
T time, F frequency, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import ConfigError
from alm.data.scenes.events import Clip, RecordedEvents
from encoders import AudioEncoder, AudioTokens
from encoders.audio import load_audio, pad_batch
from train.settings import ProbeSettings

_LARGEST_SET = 5000  # waveforms are held in memory: 5000 clips of 10 s are 3.2 GB
_BATCH = 16


class OnlineProbe:
    """The labelled clips, split into known and asked; `score` holds an encoder against them.

    Args:
        settings: Label table, folds, neighbours.
        sample_rate: Rate in Hz the encoder takes.

    Raises:
        UserError: A table or recording that cannot be used, or too many clips to be a small set.
    """

    def __init__(self, settings: ProbeSettings, sample_rate: int) -> None:
        assert settings.labels is not None
        bank = RecordedEvents(settings.labels, settings.test_folds, variation=False)
        known = [clip for split in ("train", "validation") for clip in bank.for_split(split).clips]
        asked = list(bank.for_split("test").clips)
        if len(known) + len(asked) > _LARGEST_SET:
            raise ConfigError(
                f"contrastive.probe.labels: {settings.labels} lists {len(known) + len(asked)} clips; "
                f"expected a small set of {_LARGEST_SET} at most"
            )
        self.settings = settings
        self.n_known = len(known)
        clips: list[Clip] = [*known, *asked]
        self.labels = np.array([clip.kind for clip in clips])
        self.waveforms = [load_audio(clip.path, sample_rate) for clip in clips]

    def score(self, encoder: AudioEncoder, device: torch.device) -> dict[str, float]:
        """Accuracies in [0, 1] of an encoder on the asked clips, leaving its mode as it was.

        Args:
            encoder: The encoder, on `device`.
            device: Where to encode.

        Returns:
            `probe_knn_pooled`, `probe_linear_pooled` (mean over tokens), `probe_knn_bands`,
            `probe_linear_bands` (mean and deviation over time of every frequency step's tokens) and
            `probe_chance` (always the commonest label).
        """
        was_training = encoder.training
        encoder.eval()
        try:
            parts = [
                self._features(encoder, self.waveforms[i : i + _BATCH], device)
                for i in range(0, len(self.waveforms), _BATCH)
            ]
        finally:
            encoder.train(was_training)
        known, asked = self.labels[: self.n_known], self.labels[self.n_known :]
        kinds, counts = np.unique(known, return_counts=True)
        scores = {"probe_chance": float(np.mean(asked == kinds[counts.argmax()]))}
        for name, rows in zip(("pooled", "bands"), zip(*parts, strict=True), strict=True):
            features = torch.cat(rows).numpy()
            scores |= {
                f"probe_{probe}_{name}": float(np.mean(answers == asked))
                for probe, answers in self._answers(features, known).items()
            }
        return scores

    @staticmethod
    @torch.no_grad()
    def _features(
        encoder: AudioEncoder, waveforms: Sequence[np.ndarray], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        waveform, lengths = pad_batch(waveforms)
        out = encoder(waveform.to(device), lengths)
        return pool_tokens(out)

    def _answers(self, features: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
        """Both probes' labels for the asked clips."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        k = min(self.settings.neighbours, self.n_known)
        probes = {
            "knn": KNeighborsClassifier(k, metric="cosine", weights="distance"),
            "linear": LogisticRegression(max_iter=300, tol=1e-3, C=0.01),
        }
        answers = {}
        # Problems this small are solved many times faster by one thread than by several that wait for each other.
        with threadpool_limits(1):
            for name, probe in probes.items():
                model = make_pipeline(StandardScaler(), probe).fit(features[: self.n_known], known)
                answers[name] = model.predict(features[self.n_known :])
        return answers


def pool_tokens(out: AudioTokens) -> tuple[Tensor, Tensor]:
    """Two features per clip, on the CPU.

    Args:
        out: An encoder's tokens (B, N, D) on the grid (T, F).

    Returns:
        Mean over the clip's tokens (B, D); mean and standard deviation over time per frequency (B, 2 * F * D).
    """
    grid = (out.tokens.float().unflatten(1, out.grid), out.mask.unflatten(1, out.grid)[..., None])
    tokens, mask = (part.cpu() for part in grid)  # (B, T, F, D), (B, T, F, 1)
    count = mask.sum(dim=1).clamp(min=1)  # (B, F, 1)
    mean = (tokens * mask).sum(dim=1) / count  # (B, F, D)
    deviation = ((tokens - mean[:, None]).square() * mask).sum(dim=1).div(count).sqrt()
    return mean.mean(dim=1), torch.cat([mean, deviation], dim=1).flatten(1)
