"""Labelled clips as training batches: waveforms, or cached features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import AudioError
from alm.common.fields import located
from alm.data.records import AudioRef
from encoders import AudioEncoder
from encoders.audio import pad_batch
from train.data.clip_cache import ClipCache
from train.data.feature_cache import Feature, encoded_once
from train.data.protocols import TrainingDataset
from train.finetune.augment import augmentation_key
from train.finetune.datasets import LabelledClip
from train.finetune.heads import Features, FinetuneModel, encode
from train.settings.finetune import FinetuneSettings

_ENCODE_BATCH = 16


class LabelledAudio:
    """Waveforms of labelled clips, cached up to a size limit.

    Args:
        encoder: Gives the sample rate and the shortest length.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        self.config = encoder.config
        self._audio = ClipCache(encoder.config.sample_rate)

    def read(self, clip: LabelledClip) -> np.ndarray:
        """Decode a clip: (S,) float32 at the encoder's rate.

        Raises:
            AudioError: It cannot be decoded or is too short; the message names the table's line.
        """
        with located(f"{clip.where}: {clip.path.name}", AudioError):
            wave = self._audio.read(AudioRef(clip.path, clip.start_s, clip.end_s))
            self.config.n_time_for(len(wave))
            return wave

    def crops(self, clip: LabelledClip, settings: FinetuneSettings) -> list[np.ndarray]:
        """Return the crops of a clip that testing uses: the whole clip, or evenly spaced parts."""
        wave = self.read(clip)
        size = self._crop_samples(settings)
        if size is None or settings.test_crops == 1 or len(wave) <= size:
            return [wave]
        starts = np.linspace(0, len(wave) - size, settings.test_crops).astype(int)
        return [wave[start : start + size] for start in starts]

    def random_crop(
        self, clip: LabelledClip, settings: FinetuneSettings, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the part of a clip that training uses: the whole clip, or a random crop."""
        wave = self.read(clip)
        size = self._crop_samples(settings)
        if size is None or len(wave) <= size:
            return wave
        start = int(rng.integers(len(wave) - size + 1))
        return wave[start : start + size]

    def _crop_samples(self, settings: FinetuneSettings) -> int | None:
        seconds = settings.augment.crop_s
        return None if seconds is None else int(seconds * self.config.sample_rate)


class DrawnClips(TrainingDataset):
    """The clips of an epoch: each once, or sampled with weights that make classes equally frequent.

    Args:
        clips: The clips.
        targets: (clips, C) zeros and ones.
        settings: `balanced` and `draws`.
        seed: Seed of the sampling, which is a function of (seed, epoch).
    """

    def __init__(
        self, clips: Sequence[LabelledClip], targets: Tensor, settings: FinetuneSettings, seed: int
    ) -> None:
        self.clips, self.targets, self.settings, self.seed = list(clips), targets, settings, seed
        # A clip's weight is the sum over its classes of 1 / frequency (AST and AudioMAE on AudioSet).
        self.weights = targets @ (1.0 / targets.sum(dim=0).clamp(min=1.0)) + 1e-12
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch and its clips."""
        self.epoch = epoch
        n_draws = self.settings.draws or len(self.clips)
        self.drawn = list(range(len(self.clips)))
        if self.settings.balanced:
            # numpy, because torch.multinomial is limited to 2^24 categories and float32 here
            rng = np.random.default_rng((self.seed, epoch, 1))
            shares = self.weights.double().numpy()
            self.drawn = rng.choice(len(self.clips), size=n_draws, p=shares / shares.sum()).tolist()
        seen: dict[int, int] = {}
        self.occurrences = [seen.setdefault(i, 0) for i in self.drawn]
        for position, index in enumerate(self.drawn):
            self.occurrences[position] = seen[index]
            seen[index] += 1

    def __len__(self) -> int:
        return len(self.drawn)

    def name(self, position: int) -> str:
        """Return the id of the clip at a position of the epoch."""
        return self.clips[self.drawn[position]].id


class WaveformRows(DrawnClips):
    """Training clips as waveforms with random crops and mixup; a function of (seed, epoch, clip)."""

    def __init__(self, audio: LabelledAudio, *args: Any) -> None:
        super().__init__(*args)
        self.audio = audio

    def __getitem__(self, position: int) -> dict[str, Any]:
        index, settings = self.drawn[position], self.settings
        clip, target = self.clips[index], self.targets[index]
        key = augmentation_key(self.seed, self.epoch, clip.id, self.occurrences[position])
        rng = np.random.default_rng(key)
        wave = self.audio.random_crop(clip, settings, rng)
        if rng.random() < settings.augment.mixup:
            other = int(rng.integers(len(self.clips)))
            added = self.audio.random_crop(self.clips[other], settings, rng)
            share = float(rng.beta(settings.augment.mixup_beta, settings.augment.mixup_beta))
            wave = mix(wave, added, share)
            target = share * target + (1 - share) * self.targets[other]
        return {"waveform": wave, "clip_key": key, "labels": target}


def mix(wave: np.ndarray, added: np.ndarray, share: float) -> np.ndarray:
    """Mix two waveforms without their means; the second is cut or padded to the first's length: (S,) float32."""
    fitted = np.zeros_like(wave)
    size = min(len(wave), len(added))
    fitted[:size] = added[:size] - added.mean()
    mixed = share * (wave - wave.mean()) + (1 - share) * fitted
    centred: np.ndarray = (mixed - mixed.mean()).astype(np.float32)
    return centred


def collate_waveforms(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate waveforms (B, S), lengths (B,), clip keys (B,), labels (B, C)."""
    waveforms, lengths = pad_batch([row["waveform"] for row in rows])
    keys = torch.tensor([row["clip_key"] for row in rows])
    labels = torch.stack([row["labels"] for row in rows])
    return {"waveforms": waveforms, "lengths": lengths, "clip_keys": keys, "labels": labels}


class FeatureRows(DrawnClips):
    """Training clips as cached features."""

    def __init__(self, features: dict[str, list[Tensor]], *args: Any) -> None:
        super().__init__(*args)
        self.features = features

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        index = self.drawn[position]
        return {"features": self.features[self.clips[index].id][0], "labels": self.targets[index]}


def collate_features(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collate features (B, ...), their mask if they are tokens, and labels (B, C)."""
    return stack_features([row["features"] for row in rows]) | {
        "labels": torch.stack([row["labels"] for row in rows])
    }


def stack_features(rows: Sequence[Tensor]) -> Features:
    """Stack features of equal shape; pad different numbers of tokens and return a mask."""
    if rows[0].ndim == 1 or all(row.shape == rows[0].shape for row in rows):
        return {"features": torch.stack(list(rows))}
    features = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)  # (B, N, D)
    sizes = torch.tensor([len(row) for row in rows])
    return {"features": features, "mask": torch.arange(features.shape[1])[None] < sizes[:, None]}


def compute_features(
    encoder: AudioEncoder,
    settings: FinetuneSettings,
    audio: LabelledAudio,
    clips: Sequence[LabelledClip],
    device: torch.device,
    limit_gb: float,
    folder: Path | None = None,
) -> dict[str, list[Tensor]]:
    """Compute the head's input for every clip once: clip id to its features (one whole clip), on the CPU.

    Args:
        encoder: The frozen encoder.
        settings: Mode and head.
        audio: Decodes the clips.
        clips: All clips that will be needed.
        device: Where to encode.
        limit_gb: Refuse to hold more than this.
        folder: Cache the features there too, for other runs with the same encoder and mode.

    Raises:
        ConfigError: They would take more memory than the limit.
    """
    encoder.eval().to(device)
    refs = {clip.id: AudioRef(clip.path, clip.start_s, clip.end_s) for clip in clips}
    by_ref = {refs[clip.id]: clip for clip in clips}

    def encode_batch(batch: Sequence[AudioRef]) -> list[Feature]:
        return _encode_clips(encoder, settings, audio, [by_ref[ref] for ref in batch], device)

    found = encoded_once(encoder, list(by_ref), encode_batch, _ENCODE_BATCH, limit_gb, folder, settings.mode)
    return {clip.id: [found[refs[clip.id]].values] for clip in clips}


def _encode_clips(
    encoder: AudioEncoder,
    settings: FinetuneSettings,
    audio: LabelledAudio,
    clips: Sequence[LabelledClip],
    device: torch.device,
) -> list[Feature]:
    """Compute features of whole clips."""
    waveforms, lengths = pad_batch([audio.read(clip) for clip in clips])
    out = encode(encoder, settings, waveforms.to(device), lengths)
    rows = list(out["features"].float().cpu())
    if "mask" in out:
        rows = [row[mask] for row, mask in zip(rows, out["mask"].cpu(), strict=True)]
    return [Feature(row.clone(), n) for row, n in zip(rows, lengths.tolist(), strict=True)]


@torch.no_grad()
def predict(
    model: FinetuneModel,
    clips: Sequence[LabelledClip],
    crops_of: Callable[[LabelledClip], Sequence[Any]],
    batch_size: int,
    device: torch.device,
) -> np.ndarray:
    """Compute probabilities (clips, C), averaged over each clip's crops.

    Args:
        model: The model; its mode stays as it was.
        clips: The clips.
        crops_of: Waveforms (S,) or features of a clip's crops.
        batch_size: Crops per forward pass.
        device: The model's device.
    """
    was_training = model.training
    model.eval()
    parts, counts = [], []
    for crops in _batches(clips, crops_of, batch_size):
        flat = [crop for row in crops for crop in row]
        counts += [len(row) for row in crops]
        if isinstance(flat[0], Tensor):
            inputs = stack_features(flat)
        else:
            waveforms, lengths = pad_batch(flat)
            inputs = {"waveforms": waveforms, "lengths": lengths}
        inputs = {key: v if key == "lengths" else v.to(device) for key, v in inputs.items()}
        parts.append(model.probabilities(model(**inputs)["logits"]).cpu())
    model.train(was_training)
    rows = torch.cat(parts).split(counts)
    return torch.stack([row.mean(dim=0) for row in rows]).double().numpy()


def _batches(
    clips: Sequence[LabelledClip], crops_of: Callable[[LabelledClip], Sequence[Any]], batch_size: int
) -> Iterator[list[Sequence[Any]]]:
    """Group the crops of clips into batches of about `batch_size` crops."""
    batch: list[Sequence[Any]] = []
    for clip in clips:
        batch.append(crops_of(clip))
        if sum(map(len, batch)) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
