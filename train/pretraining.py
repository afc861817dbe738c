"""Contrastive pretraining of AudioMosaic: two masked views of every clip, pulled together by NT-Xent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from alm.errors import ConfigError
from alm.manifest import AudioRef
from encoders import AudioEncoder, AudioMosaicEncoder, load_encoder
from encoders.audio import load_audio, pad_batch
from encoders.checkpoint import load_strict
from train.conversations import clips_of, read_manifests
from train.losses import nt_xent
from train.masks import sample_keep
from train.ranks import is_main, say
from train.settings import ContrastiveSettings, TrainSettings
from train.trainer import fit, gathered_weights
from train.views import make_views


class ClipDataset(Dataset):
    """The different clips of some manifests, as waveforms.

    Args:
        refs: The clips.
        sample_rate: Rate in Hz to deliver.
    """

    def __init__(self, refs: Sequence[AudioRef], sample_rate: int) -> None:
        self.refs = list(refs)
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ref = self.refs[index]
        name = f"{ref.path.name}:{ref.start_s}:{ref.end_s}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
        return {"waveform": load_audio(ref.path, self.sample_rate, ref.start_s, ref.end_s), "clip_key": key}


def collate_clips(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Waveforms (B, S), lengths (B,), and the clips' keys (B,) that their augmentations are drawn from."""
    waveforms, lengths = pad_batch([sample["waveform"] for sample in samples])
    return {
        "waveforms": waveforms,
        "lengths": lengths,
        "clip_keys": torch.tensor([sample["clip_key"] for sample in samples]),
    }


class ContrastiveModel(nn.Module):
    """The encoder with its two masked branches; forward returns the loss.

    Args:
        encoder: An AudioMosaic encoder with its contrastive head.
        settings: Masks and temperature.
        seed: Seed of views and masks.
    """

    def __init__(self, encoder: AudioMosaicEncoder, settings: ContrastiveSettings, seed: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the model the epoch; views and masks are functions of (seed, epoch, clip, view)."""
        self.epoch = epoch

    def embed(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Both views' embeddings (B, E).

        View 0 hides time columns, view 1 frequency bands; each goes through BatchNorm on its own.
        """
        encoder, settings = self.encoder, self.settings
        views = make_views(
            waveforms,
            lengths,
            clip_keys,
            encoder.fbank,
            dataclasses.replace(settings.views, n_frames=encoder.config.spec_size[0]),
            seed=self.seed,
            epoch=self.epoch,
        )
        embeddings = []
        for view, (mel, ratio, branch) in enumerate(
            zip(views, (settings.time_ratio, settings.freq_ratio), ("time", "freq"), strict=True)
        ):
            generator = torch.Generator().manual_seed(
                hash((self.seed, self.epoch, view, int(clip_keys[0]))) % 2**63
            )
            keep = sample_keep(
                settings.mask_layout, encoder.config.grid, len(mel), ratio, branch, generator
            ).to(mel.device)
            tokens = encoder.forward_mel(encoder.normalise(mel), keep)
            embeddings.append(encoder.embed_head(encoder.pool(tokens)))
        return embeddings[0], embeddings[1]

    def forward(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> dict[str, Tensor]:
        """NT-Xent over the batch.

        Args:
            waveforms: (B, S) float32 in [-1, 1].
            lengths: (B,) in samples.
            clip_keys: (B,) long.
        """
        first, second = self.embed(waveforms, lengths, clip_keys)
        return {"loss": nt_xent(first, second, self.settings.temperature)}


@torch.no_grad()
def retrieval_accuracy(
    model: ContrastiveModel, dataset: ClipDataset, device: torch.device
) -> dict[str, float]:
    """How often a clip's second view is nearer to its first than any other clip's view is.

    Returns:
        ``view_retrieval`` in [0, 1] and ``view_retrieval_chance``.
    """
    was_training = model.training
    model.eval().to(device)
    parts = []
    for start in range(0, len(dataset), 32):
        batch = collate_clips([dataset[i] for i in range(start, min(start + 32, len(dataset)))])
        parts.append(model.embed(**{key: value.to(device) for key, value in batch.items()}))
    first, second = (
        nn.functional.normalize(torch.cat(side).float(), dim=-1) for side in zip(*parts, strict=True)
    )
    hit = (first @ second.T).argmax(1) == torch.arange(len(first), device=first.device)
    model.train(was_training)
    return {"view_retrieval": float(hit.float().mean()), "view_retrieval_chance": 1 / len(first)}


def pretraining_encoder(settings: TrainSettings) -> AudioMosaicEncoder:
    """The encoder to train, with a contrastive head."""
    assert settings.encoder is not None
    options = {"model_class": "AudioMosaicPretrain", **settings.encoder_options}
    encoder: AudioEncoder = load_encoder(settings.encoder, **options)
    if not isinstance(encoder, AudioMosaicEncoder):
        raise ConfigError(
            f"encoder: '{settings.encoder}' is a {type(encoder).__name__}; contrastive pretraining is for AudioMosaic"
        )
    return encoder


def pretrain(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Run the pretraining stage; writes ``folder/encoder`` in the release layout."""
    from transformers import set_seed

    from alm.generation import pick_device
    from encoders.conformance import check_time_localisation

    set_seed(settings.run.seed)
    encoder = pretraining_encoder(settings)
    clips = clips_of(read_manifests(settings.data.train))
    held_out = clips_of(read_manifests(settings.data.validation))
    if len(clips) < settings.optim.batch_size:
        raise ConfigError(
            f"optim.batch_size={settings.optim.batch_size} but data.train has only {len(clips)} clips; lower it"
        )
    model = ContrastiveModel(encoder, settings.contrastive, settings.run.seed)
    dataset = ClipDataset(clips, encoder.config.sample_rate)
    trainer = fit(settings, model, dataset, collate_clips, folder, "pretrain")
    prefix = "encoder."
    weights = {
        k.removeprefix(prefix): v for k, v in gathered_weights(trainer).items() if k.startswith(prefix)
    }
    trained = type(encoder)(encoder.config)
    load_strict(trained, weights, source="the trained encoder")
    if is_main():  # saved before anything else can fail; only the marker says that the run is finished
        trained.save_pretrained(folder / "encoder")
    facts: dict[str, Any] = {"clips": len(clips)}
    if held_out:
        validation = ClipDataset(held_out[:256], encoder.config.sample_rate)
        facts |= retrieval_accuracy(model, validation, pick_device())
        say(
            f"pretrain: a held-out clip's other view is its nearest in {facts['view_retrieval']:.1%} "
            f"(chance {facts['view_retrieval_chance']:.1%})"
        )
    check_time_localisation(trained.eval())
    say("pretrain: an impulse at second t changes the tokens of second t most")
    return facts
