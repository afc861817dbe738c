"""The contrastive model of pretraining: two views of every clip, each with its own kind of mask, and their loss.

Axis letters: B batch, S samples, V the two views, D width, E width of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from encoders import AudioMosaicEncoder
from encoders.audio import SILENT_PEAK
from train.data.clip_cache import MelCache
from train.engine.sync_norm import synchronise_batch_norm
from train.pretrain.gradcache import in_chunks
from train.pretrain.losses import LOSSES
from train.pretrain.losses.base import ContrastiveLoss
from train.pretrain.masks import MASK_LAYOUTS
from train.pretrain.masks.base import clip_noise, sample_visible_tokens
from train.pretrain.monitor import agreement, spread
from train.pretrain.views import fit_frames, make_views
from train.settings.pretrain import ContrastiveSettings


def build_loss(settings: ContrastiveSettings) -> ContrastiveLoss:
    """Build the loss that `contrastive.loss` names."""
    return LOSSES.get(settings.loss)(settings.temperature, settings.loss_chunk_rows)


class ContrastiveModel(nn.Module):
    """The encoder with its two masked branches; forward returns the loss.

    Args:
        encoder: An AudioMosaic encoder with its contrastive head; its BatchNorm is synchronised over all processes.
        loss: The objective, for example of `build_loss`; its parameters are trained with the encoder.
        settings: Views and masks.
        seed: Seed of views and masks.
        compiled: Compile the encoder (torch.compile); names in the state dict stay as they are.
        background: Mel powers (frames, M) float32 for views with other clips in the background
            (`train.pretrain.views.background_tape`).
    """

    def __init__(
        self,
        encoder: AudioMosaicEncoder,
        loss: ContrastiveLoss,
        settings: ContrastiveSettings,
        seed: int = 0,
        compiled: bool = False,
        background: Tensor | None = None,
    ) -> None:
        super().__init__()
        synchronise_batch_norm(encoder)
        self.encoder, self.loss = encoder, loss
        # DeepSpeed's automatic bucket sizes follow this.
        self.config = PretrainedConfig.from_dict({"hidden_size": encoder.dim})
        self.settings = settings
        self.views = dataclasses.replace(settings.views, n_frames=encoder.config.spec_size[0])
        self._layout = MASK_LAYOUTS.get(settings.mask_layout)
        self.seed = seed
        self.epoch = 0
        self._mels = MelCache(encoder.fbank)
        self._background = background  # no buffer: DDP would broadcast it at every step
        self._encode = torch.compile(encoder.forward_mel) if compiled else encoder.forward_mel
        self._seen: tuple[Tensor, Tensor] | None = None
        self._silent: Tensor | int = 0
        self._queued: dict[str, float] = {}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; views and masks are functions of (seed, epoch, clip, view)."""
        self.epoch = epoch

    def pooled(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> Tensor:
        """Compute pooled features of both views (B, V, D): view 0 hides time columns, view 1 frequency bands.

        The features of a clip do not depend on the rest of the batch.
        """
        encoder, settings = self.encoder, self.settings
        views: Sequence[Tensor]
        if waveforms.ndim == 3:  # the loader made the views
            mel, _ = encoder.fbank(waveforms.flatten(0, 1), lengths.repeat_interleave(2))
            views = fit_frames(mel, self.views.n_frames).unflatten(0, (-1, 2)).unbind(1)
        else:
            on_cpu = waveforms.device.type == "cpu"
            mel, n_frames = (
                self._mels(waveforms, lengths, clip_keys) if on_cpu else encoder.fbank(waveforms, lengths)
            )
            if self._background is not None:
                self._background = self._background.to(mel.device)
            views = make_views(
                mel,
                n_frames,
                clip_keys,
                encoder.fbank,
                self.views,
                seed=self.seed,
                epoch=self.epoch,
                background=self._background,
            )
        features = []
        keys = clip_keys.tolist()
        branches = (("time", settings.time_ratio), ("freq", settings.freq_ratio))
        for view, (mel, (branch, ratio)) in enumerate(zip(views, branches, strict=True)):
            noise = clip_noise(keys, self.seed, self.epoch, view)
            visible = sample_visible_tokens(self._layout, encoder.config.grid, ratio, branch, noise)
            tokens = self._encode(encoder.normalise(mel), visible.to(mel.device))
            features.append(encoder.pool(tokens))
        return torch.stack(features, dim=1)

    def embed(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both views' embeddings (B, E); the head's BatchNorm normalises each view separately."""
        pooled = in_chunks(self.pooled, self.settings.grad_cache_chunk, waveforms, lengths, clip_keys)
        first, second = (self.encoder.embed_head(pooled[:, view]) for view in (0, 1))
        if self.training:
            self._seen = pooled.detach(), first.detach()
            self._silent = self._silent + (waveforms.flatten(1).abs().amax(dim=1) < SILENT_PEAK).sum()
        return first, second

    def forward(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> dict[str, Tensor]:
        """Compute the loss over the batch.

        Args:
            waveforms: (B, S) float32 in [-1, 1], or (B, V, S) where the loader made the views.
            lengths: (B,) in samples.
            clip_keys: (B,) long.
        """
        return {"loss": self.loss(*self.embed(waveforms, lengths, clip_keys))}

    def queue_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the next line of the log."""
        self._queued |= metrics

    def take_metrics(self) -> dict[str, float]:
        """Return and clear the queued metrics, those of the last batch, and the number of silent clips."""
        metrics, self._queued = self._queued, {}
        if self._seen is None:
            return metrics
        pooled, embedding = self._seen  # (B, V, D), (B, E)
        for name, features in (("pooled", pooled[:, 0]), ("embedding", embedding)):
            metrics |= {f"{name}_{key}": value for key, value in spread(features).items()}
        metrics["view_agreement"] = agreement(pooled[:, 0], pooled[:, 1])
        metrics |= self.loss.metrics()
        metrics["silent_clips"] = int(self._silent)
        self._seen, self._silent = None, 0
        return metrics
