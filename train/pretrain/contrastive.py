"""The contrastive model of pretraining: two views of every clip, each masked its own way, and their loss.

Axis letters: B batch, S samples, V the two views, D width, E width of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from encoders import AudioMosaicEncoder
from train.data.kept import KeptMels
from train.engine.sync_norm import synchronise_batch_norm
from train.pretrain.gradcache import in_chunks
from train.pretrain.losses import SigmoidLoss, nt_xent
from train.pretrain.masks import keep_of
from train.pretrain.monitor import agreement, spread
from train.pretrain.views import fit_frames, make_views_of_mel
from train.settings import ContrastiveSettings

# Peaks below one step of 16-bit audio: there is nothing to hear.
_SILENT_PEAK = 2.0**-15


class ContrastiveModel(nn.Module):
    """The encoder with its two masked branches; forward returns the loss.

    Args:
        encoder: An AudioMosaic encoder with its contrastive head, whose BatchNorm then sees all processes.
        settings: Views, masks and loss.
        seed: Seed of views and masks.
        compiled: Compile the encoder (torch.compile); names in the state dict stay as they are.
        background: Mel powers (frames, M) float32 for views with other clips in the background
            (`train.pretrain.views.background_tape`).
    """

    def __init__(
        self,
        encoder: AudioMosaicEncoder,
        settings: ContrastiveSettings,
        seed: int = 0,
        compiled: bool = False,
        background: Tensor | None = None,
    ) -> None:
        super().__init__()
        synchronise_batch_norm(encoder)
        self.encoder = encoder
        # DeepSpeed's automatic bucket sizes follow this.
        self.config = PretrainedConfig.from_dict({"hidden_size": encoder.dim})
        self.settings = settings
        self.views = dataclasses.replace(settings.views, n_frames=encoder.config.spec_size[0])
        self.seed = seed
        self.epoch = 0
        self._mels = KeptMels(encoder.fbank)
        self._background = background  # no buffer: DDP would send it round at every step
        self.sigmoid = SigmoidLoss(settings.loss_chunk_rows) if settings.loss == "siglip" else None
        self._encode = torch.compile(encoder.forward_mel) if compiled else encoder.forward_mel
        self._seen: tuple[Tensor, Tensor] | None = None
        self._silent: Tensor | int = 0
        self._queued: dict[str, float] = {}

    def set_epoch(self, epoch: int) -> None:
        """Tell the model the epoch; views and masks are functions of (seed, epoch, clip, view)."""
        self.epoch = epoch

    def pooled(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> Tensor:
        """Pooled features of both views (B, V, D): view 0 hides time columns, view 1 frequency bands.

        Nothing in here looks across the batch.
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
            views = make_views_of_mel(
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
            keep = keep_of(
                keys,
                settings.mask_layout,
                encoder.config.grid,
                ratio,
                branch,
                seed=self.seed,
                epoch=self.epoch,
                view=view,
            )
            tokens = self._encode(encoder.normalise(mel), keep.to(mel.device))
            features.append(encoder.pool(tokens))
        return torch.stack(features, dim=1)

    def embed(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Both views' embeddings (B, E); each goes through the head's BatchNorm on its own."""
        pooled = in_chunks(self.pooled, self.settings.grad_cache_chunk, waveforms, lengths, clip_keys)
        first, second = (self.encoder.embed_head(pooled[:, view]) for view in (0, 1))
        if self.training:
            self._seen = pooled.detach(), first.detach()
            self._silent = self._silent + (waveforms.flatten(1).abs().amax(dim=1) < _SILENT_PEAK).sum()
        return first, second

    def forward(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> dict[str, Tensor]:
        """The loss over the batch.

        Args:
            waveforms: (B, S) float32 in [-1, 1], or (B, V, S) where the loader made the views.
            lengths: (B,) in samples.
            clip_keys: (B,) long.
        """
        first, second = self.embed(waveforms, lengths, clip_keys)
        if self.sigmoid is not None:
            return {"loss": self.sigmoid(first, second)}
        settings = self.settings
        return {"loss": nt_xent(first, second, settings.temperature, settings.loss_chunk_rows)}

    def queue_metrics(self, metrics: Mapping[str, float]) -> None:
        """Figures to go into the next line of the log."""
        self._queued |= metrics

    def take_metrics(self) -> dict[str, float]:
        """What is queued, what the last training batch says about collapse, and how many silent clips came.

        Taken once, by whoever writes the log.
        """
        metrics, self._queued = self._queued, {}
        if self._seen is None:
            return metrics
        pooled, embedding = self._seen  # (B, V, D), (B, E)
        for name, features in (("pooled", pooled[:, 0]), ("embedding", embedding)):
            metrics |= {f"{name}_{key}": value for key, value in spread(features).items()}
        metrics["view_agreement"] = agreement(pooled[:, 0], pooled[:, 1])
        if self.sigmoid is not None:
            metrics["logit_scale"] = float(self.sigmoid.log_scale.detach().exp())
            metrics["logit_bias"] = float(self.sigmoid.bias.detach())
        metrics["silent_clips"] = int(self._silent)
        self._seen, self._silent = None, 0
        return metrics
