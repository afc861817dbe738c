"""Probes of the encoder during pretraining: k nearest neighbours and logistic regression on a small labelled set.

The split is by fold; clips of one source recording are never on both sides. Axis letters: B clips, N tokens,
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
from train.settings.pretrain import ProbeSettings

_LARGEST_SET = 5000  # waveforms are held in memory: 5000 clips of 10 s are 3.2 GB
_BATCH = 16


class OnlineProbe:
    """The labelled clips, split into those the probes are fitted on and those they are tested on.

    Raises:
        UserError: A table or recording that cannot be used, or too many clips.
    """

    def __init__(self, settings: ProbeSettings, sample_rate: int) -> None:
        assert settings.labels is not None
        bank = RecordedEvents(settings.labels, settings.test_folds, variation=False)
        fitted = [clip for split in ("train", "validation") for clip in bank.for_split(split).clips]
        tested = list(bank.for_split("test").clips)
        if len(fitted) + len(tested) > _LARGEST_SET:
            raise ConfigError(
                f"contrastive.probe.labels: {settings.labels} lists {len(fitted) + len(tested)} clips; "
                f"expected a small set of {_LARGEST_SET} at most"
            )
        self.settings = settings
        self.n_fitted = len(fitted)
        clips: list[Clip] = [*fitted, *tested]
        self.labels = np.array([clip.kind for clip in clips])
        self.waveforms = [load_audio(clip.path, sample_rate) for clip in clips]

    def score(self, encoder: AudioEncoder, device: torch.device) -> dict[str, float]:
        """Compute the accuracies of both probes on the test clips; the encoder's mode stays as it was.

        Args:
            encoder: The encoder, on `device`.
            device: Where to encode.

        Returns:
            `probe_knn_pooled`, `probe_linear_pooled` (mean over tokens), `probe_knn_bands`,
            `probe_linear_bands` (mean and standard deviation over time of every frequency step's tokens) and
            `probe_chance` (the most frequent label), all in [0, 1].
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
        fitted, tested = self.labels[: self.n_fitted], self.labels[self.n_fitted :]
        kinds, counts = np.unique(fitted, return_counts=True)
        scores = {"probe_chance": float(np.mean(tested == kinds[counts.argmax()]))}
        for name, rows in zip(("pooled", "bands"), zip(*parts, strict=True), strict=True):
            features = torch.cat(rows).numpy()
            scores |= {
                f"probe_{probe}_{name}": float(np.mean(predicted == tested))
                for probe, predicted in self._predictions(features, fitted).items()
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

    def _predictions(self, features: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Fit both probes on the first clips, whose labels are given, and predict the labels of the others."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        k = min(self.settings.neighbours, self.n_fitted)
        probes = {
            "knn": KNeighborsClassifier(k, metric="cosine", weights="distance"),
            "linear": LogisticRegression(max_iter=300, tol=1e-3, C=0.01),
        }
        predictions = {}
        # On problems this small one thread is many times faster than several that wait for each other.
        with threadpool_limits(1):
            for name, probe in probes.items():
                model = make_pipeline(StandardScaler(), probe).fit(features[: self.n_fitted], labels)
                predictions[name] = model.predict(features[self.n_fitted :])
        return predictions


def pool_tokens(out: AudioTokens) -> tuple[Tensor, Tensor]:
    """Pool tokens to two features per clip, on the CPU.

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
