"""The heads of AudioMosaic's model classes: the contrastive head, the classifier and the probes.

Parameters sit on the encoder itself, under the names the published weights have.
Axis letters: B batch, N tokens, D width, L layers, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from encoders.vit import NORM_EPS
from encoders.zoo.audiomosaic.config import ATTENTIVE, BACKBONE, CLASSIFIER, LAYER, PRETRAIN, WEIGHTED_SUM
from encoders.zoo.audiomosaic.config import AudioMosaicConfig as Config

# Keys that a model class adds to the backbone's. Weights that are loaded into another class may lack that class's keys.
_CLASSES_KEYS = ("head.*",)
HEAD_KEYS: dict[str, tuple[str, ...]] = {
    PRETRAIN: ("projector.*", "logit_*"),
    CLASSIFIER: _CLASSES_KEYS,
    LAYER: _CLASSES_KEYS,
    WEIGHTED_SUM: (*_CLASSES_KEYS, "layer_weights"),
    ATTENTIVE: (*_CLASSES_KEYS, "attn_*", "layer_norms.*"),
    BACKBONE: (),
}
_HEAD_HIDDEN = 512  # width between the two layers of the contrastive head (official code)
_INIT_STD = 0.02
_CLASSIFIER_INIT_STD = 2.5e-5  # official fine-tuning recipe


def add_head(encoder: Any, config: Config, pooled_dim: int) -> None:
    """Put the head of `config.model_class` on an encoder."""
    if config.model_class == PRETRAIN:
        _add_contrastive(encoder, config, pooled_dim)
    elif config.has_classes:
        encoder.head_drop_out = nn.Dropout(config.classifier_drop_out)
        encoder.head = nn.Linear(pooled_dim, config.num_classes)
    dim, n_layers = config.embed_dim, config.depth + 1
    if config.model_class == WEIGHTED_SUM:
        encoder.layer_weights = nn.Parameter(torch.zeros(n_layers))
    elif config.model_class == ATTENTIVE:
        heads = config.num_attn_heads
        encoder.attn_query = nn.Parameter(torch.empty(1, heads, 1, dim // heads))
        encoder.attn_key = nn.Linear(dim, dim, bias=False)
        encoder.attn_value = nn.Linear(dim, dim, bias=False)
        encoder.layer_norms = nn.ModuleList(nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(n_layers))


def initialise_head(encoder: Any, config: Config) -> None:
    """Official initial values where they differ from the backbone's."""
    if config.has_classes:
        nn.init.normal_(encoder.head.weight, std=_CLASSIFIER_INIT_STD)
    if config.model_class == ATTENTIVE:
        nn.init.normal_(encoder.attn_query, std=_INIT_STD)


def probe_feature(encoder: Any, config: Config, layers: list[Tensor]) -> Tensor:
    """Input of a probe's classifier: the outputs of every block and of the final norm, L x (B, 1 + N, D) -> (B, D).

    A layer probe reads one block, a weighted sum mixes all layers' tokens, attention mixes all layers' pooled
    tokens. If `norm` is Identity, the last block counts twice, as in the official code.
    """
    out: Tensor
    if config.model_class == LAYER:
        out = encoder.pool(layers[config.probe_layer])
        return out
    if config.model_class == WEIGHTED_SUM:
        weights = encoder.layer_weights.softmax(dim=0)
        mixed = sum(weight * tokens for weight, tokens in zip(weights, layers, strict=True))  # (B, 1 + N, D)
        out = encoder.pool(mixed)
        return out
    pooled = [encoder.pool(norm(x)) for norm, x in zip(encoder.layer_norms, layers, strict=True)]
    stacked = torch.stack(pooled, dim=1)  # (B, L, D)
    heads = config.num_attn_heads
    keys = encoder.attn_key(stacked).unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, L, D / heads)
    values = encoder.attn_value(stacked).unflatten(2, (heads, -1)).transpose(1, 2)
    query = encoder.attn_query.expand(len(stacked), -1, -1, -1)  # (B, heads, 1, D / heads)
    return nn.functional.scaled_dot_product_attention(query, keys, values).flatten(1)


def _add_contrastive(encoder: Any, config: Config, pooled_dim: int) -> None:
    encoder.projector = nn.Sequential(
        nn.Linear(pooled_dim, _HEAD_HIDDEN, bias=False),
        nn.BatchNorm1d(_HEAD_HIDDEN),
        nn.ReLU(),
        nn.Linear(_HEAD_HIDDEN, config.project_embedding_dim, bias=False),
        nn.BatchNorm1d(config.project_embedding_dim),
    )
    encoder.projector[4].bias.requires_grad_(False)
    if config.learnable_tau:
        encoder.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.logit_scale_init)))
    if config.learnable_bias:
        encoder.logit_bias = nn.Parameter(torch.tensor(0.0))
