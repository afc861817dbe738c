"""Classification heads on an encoder, and the model that trains them, on audio or on cached features.

Axis letters: B batch, S samples, N tokens, D width, L layers, C classes, Q queries.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from alm.common.errors import ConfigError
from encoders import AudioEncoder, AudioMosaicEncoder
from train.engine.sync_norm import SyncBatchNorm1d
from train.finetune.aasist import Aasist
from train.finetune.augment import augmented_clip_features
from train.processes import rank_and_world
from train.settings.finetune import FinetuneSettings

Features = dict[str, Tensor]


def encode(encoder: AudioEncoder, settings: FinetuneSettings, waveforms: Tensor, lengths: Tensor) -> Features:
    """Compute the input of the head.

    Args:
        encoder: Any encoder.
        settings: Mode and head.
        waveforms: (B, S) float32 in [-1, 1].
        lengths: (B,) samples.

    Returns:
        `features`: (B, D') the clip feature; (B, L, D') that of every layer for weighted_sum; (B, N, D) tokens with
        `mask` (B, N) for heads that read tokens.

    Raises:
        ConfigError: The encoder has no such layer, or gives no access to its layers.
    """
    if settings.reads_tokens:
        out = encoder(waveforms, lengths)
        return {"features": out.tokens, "mask": out.mask}
    if settings.mode == "weighted_sum":
        layers = encoder.forward_layers(waveforms, lengths)
        return {"features": torch.stack([layer.clip_features() for layer in layers], dim=1)}
    if settings.layer is not None:
        layers = encoder.forward_layers(waveforms, lengths)
        if settings.layer >= len(layers):
            raise ConfigError(
                f"finetune.mode: got layer:{settings.layer}, the encoder has layer:0 to layer:{len(layers) - 1}"
            )
        return {"features": layers[settings.layer].clip_features()}
    return {"features": encoder(waveforms, lengths).clip_features()}


class ClipHead(nn.Module):
    """Normalise a clip's feature and classify it: (B, D) -> (B, C)."""

    def __init__(self, norm: nn.Module, dim: int, n_classes: int, std: float) -> None:
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(dim, n_classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


class LayerSumHead(ClipHead):
    """A learned average of the layers' features before the classifier: (B, L, D) -> (B, C) (SUPERB's probe)."""

    def __init__(self, n_layers: int, dim: int, n_classes: int, std: float) -> None:
        super().__init__(nn.LayerNorm(dim), dim, n_classes, std)
        self.weights = nn.Parameter(torch.zeros(n_layers))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits."""
        return super().forward(torch.einsum("bld,l->bd", features, self.weights.softmax(dim=0)))


class ClipBatchNorm(SyncBatchNorm1d):
    """Standardise each channel over the batch of all processes, without weights: (B, D) -> (B, D) float32.

    It stands before a linear probe, as in MAE (He et al. 2022): the channels of contrastive features differ much more
    in scale than a LayerNorm can even out. At first the running statistics average all batches so far. A batch of a
    single clip is standardised with them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6, affine=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        """Standardise (B, D)."""
        assert self.num_batches_tracked is not None
        if not self.training or (len(input) == 1 and rank_and_world()[1] == 1):
            return functional.batch_norm(input.float(), self.running_mean, self.running_var, eps=self.eps)
        self.momentum = max(_MOMENTUM, 1 / (1 + int(self.num_batches_tracked)))
        return super().forward(input.float())


# Weight of a batch in the running statistics after the first 1 / _MOMENTUM batches; PyTorch's default.
_MOMENTUM = 0.1


class AttentiveHead(ClipHead):
    """Classify an average of the tokens, weighted by the attention of learned queries: (B, N, D) -> (B, C).

    Each of Q queries averages its own share of the channels: the efficient probing of Psomas et al. 2025 ("Attention,
    Please! Revisiting Attentive Probing"), here without its projection of the values and with a LayerNorm before the
    queries. It has only Q x D parameters more than a linear probe, so that a few hundred clips suffice to train it.
    """

    def __init__(self, dim: int, n_classes: int, std: float, n_queries: int) -> None:
        super().__init__(ClipBatchNorm(dim), dim, n_classes, std)
        if dim % n_queries:
            raise ConfigError(
                f"finetune.queries: got {n_queries}, expected a divisor of the encoder's width {dim}"
            )
        self.queries = nn.Parameter(torch.empty(n_queries, dim))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.token_norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits; `mask` (B, N) is True where a token covers audio."""
        keys = self.token_norm(features.to(self.queries.dtype))
        scores = torch.einsum("bnd,qd->bqn", keys, self.queries).float() / features.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        shares = features.unflatten(-1, (len(self.queries), -1))  # (B, N, Q, D / Q)
        with torch.autocast(features.device.type, enabled=False):  # the norm magnifies rounding errors
            pooled = torch.einsum("bqn,bnqd->bqd", scores.softmax(dim=-1), shares.float()).flatten(1)
            feature = self.norm(pooled)
        logits: Tensor = self.linear(feature.to(self.queries.dtype))
        return logits


class GraphHead(ClipHead):
    """AASIST's graphs over the grid of tokens: (B, N, D) -> (B, C)."""

    def __init__(self, dim: int, n_classes: int, std: float, n_freq: int) -> None:
        graphs = Aasist(dim, n_freq)
        super().__init__(nn.LayerNorm(graphs.dim), graphs.dim, n_classes, std)
        self.graphs = graphs

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits; `mask` (B, N) is True where a token covers audio."""
        return super().forward(self.graphs(features, mask))


def build_head(
    encoder: AudioEncoder, settings: FinetuneSettings, features: Tensor, n_classes: int
) -> ClipHead:
    """Build the head of a mode.

    Args:
        encoder: The head starts from its normalisation of the clip feature, if it has one.
        settings: The mode and its options.
        features: `features` of `encode` for any clip.
        n_classes: C.
    """
    dim = features.shape[-1]
    if settings.head == "aasist":
        return GraphHead(dim, n_classes, settings.head_std, encoder.config.n_freq)
    if settings.reads_tokens:
        return AttentiveHead(dim, n_classes, settings.head_std, settings.queries)
    if settings.mode == "weighted_sum":
        return LayerSumHead(features.shape[1], dim, n_classes, settings.head_std)
    if settings.solver == "logistic":
        # The solver's weights include the standardisation.
        return ClipHead(nn.Identity(), dim, n_classes, settings.head_std)
    own = encoder.clip_norm if settings.layer is None else None
    norm = nn.LayerNorm(dim) if own is None else copy.deepcopy(own).requires_grad_(True)
    return ClipHead(norm, dim, n_classes, settings.head_std)


class FinetuneModel(nn.Module):
    """Encoder and head with their loss; without an encoder, the head on given features.

    Args:
        head: The head.
        encoder: None with cached features. A frozen one stays in evaluation mode.
        settings: Mode, loss, augmentation.
        multi_label: Whether a clip may have several labels.
        class_weights: (C,) weight of each class's clips; None weighs all equally.
    """

    def __init__(
        self,
        head: ClipHead,
        encoder: AudioEncoder | None,
        settings: FinetuneSettings,
        multi_label: bool,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.encoder = encoder
        self.settings = settings
        self.bce = settings.loss == "bce" or (settings.loss == "auto" and multi_label)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        waveforms: Tensor | None = None,
        lengths: Tensor | None = None,
        clip_keys: Tensor | None = None,
        features: Tensor | None = None,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute logits, and the loss if there are labels.

        Args:
            waveforms: (B, S) float32, if the model has an encoder.
            lengths: (B,) samples.
            clip_keys: (B,) long, keys of the augmentation's random numbers.
            features: The result of `encode`, instead of waveforms.
            mask: (B, N) bool, if the features are tokens.
            labels: (B, C) targets in [0, 1].

        Returns:
            `logits` (B, C), and `loss`.
        """
        if features is None:
            assert self.encoder is not None and waveforms is not None and lengths is not None
            given = self._encode(waveforms, lengths, clip_keys)
            features, mask = given["features"], given.get("mask")
        logits = self.head(features, mask)
        result = {"logits": logits}
        if labels is not None:
            result["loss"] = self._loss(logits.float(), labels)
        return result

    def _encode(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor | None) -> Features:
        assert self.encoder is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder.frozen):
            if self.training and clip_keys is not None and self.settings.augment.on_log_mel:
                assert isinstance(self.encoder, AudioMosaicEncoder)
                pooled = augmented_clip_features(
                    self.encoder, waveforms, lengths, clip_keys, self.settings.augment
                )
                return {"features": pooled}
            return encode(self.encoder, self.settings, waveforms, lengths)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute binary or softmax cross-entropy against soft targets."""
        smoothing = self.settings.label_smoothing
        targets = labels * (1 - smoothing) + smoothing / labels.shape[1]
        if self.bce:
            per_clip = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(
                dim=1
            )
        else:
            per_clip = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        if self.class_weights is None:
            return per_clip.mean()
        # (B,) the weight of the true class, as in F.cross_entropy.
        weights = (labels * self.class_weights).sum(dim=1)
        return (weights * per_clip).sum() / weights.sum().clamp(min=1e-9)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities (B, C) in [0, 1]."""
        return logits.float().sigmoid() if self.bce else logits.float().softmax(dim=1)
