"""One masked contrastive step: our encoder against a plain PyTorch ViT given the same weights and kept tokens."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import step_flops
from benchmarks.measure import Row, alternate, gemm_gflops, main, spread
from encoders import AudioMosaicEncoder
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from train.pretrain.losses.nt_xent import NTXent
from train.pretrain.masks.base import generator_noise, sample_visible_tokens
from train.pretrain.masks.time_frequency import time_frequency

View = tuple[Tensor, Tensor]  # normalised log-mel (B, T, M), kept tokens (B, K)


class PlainBlock(nn.Module):
    """A pre-norm transformer block of torch's own parts."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class PlainViT(nn.Module):
    """The same function written the plain way: embed every patch, then drop the hidden ones."""

    def __init__(self, encoder: AudioMosaicEncoder) -> None:
        super().__init__()
        config = encoder.config
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.proj = nn.Conv2d(1, dim, config.patch_size, config.patch_size)
        self.patch_norm, self.norm_pre, self.fc_norm = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.empty(1, 1, dim)),
            nn.Parameter(torch.empty_like(encoder.pos_embed)),
        )
        self.blocks = nn.Sequential(*(PlainBlock(dim, config.num_heads, hidden) for _ in range(config.depth)))
        self.projector = nn.Sequential(
            nn.Linear(dim, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, config.project_embedding_dim, bias=False),
            nn.BatchNorm1d(config.project_embedding_dim),
        )
        names = {
            "patch_embed.proj.": "proj.",
            "patch_embed.norm.": "patch_norm.",
            "attn.qkv.": "attn.in_proj_",
            "attn.proj.": "attn.out_proj.",
            "mlp.fc1.": "mlp.0.",
            "mlp.fc2.": "mlp.2.",
        }
        weights = {}
        for key, value in encoder.state_dict().items():
            for theirs, mine in names.items():
                key = key.replace(theirs, mine)
            weights[key] = value
        self.load_state_dict(weights)

    def forward(self, mel: Tensor, keep: Tensor) -> Tensor:
        """(B, T, M), (B, K) -> (B, E)."""
        x = self.patch_norm(self.proj(mel[:, None]).flatten(2).transpose(1, 2))
        x = self.norm_pre(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed)
        kept = x[:, 1:].gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        x = self.blocks(torch.cat([x[:, :1], kept], dim=1))
        return self.projector(self.fc_norm(x.mean(dim=1)))


def ours_step(encoder: AudioMosaicEncoder, views: tuple[View, View]) -> Tensor:
    """Loss and gradients of a batch of pairs."""
    first, second = (encoder.embed_head(encoder.pool(encoder.forward_mel(mel, keep))) for mel, keep in views)
    return _backward(encoder, NTXent()(first, second))


def plain_step(model: PlainViT, views: tuple[View, View]) -> Tensor:
    """The same with the plain model."""
    return _backward(model, NTXent()(model(*views[0]), model(*views[1])))


def _backward(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach()


def make_views(config: AudioMosaicConfig, batch: int, seed: int = 0) -> tuple[View, View]:
    """Random log-mel with the method's time mask (0.6) and frequency mask (0.4)."""
    generator = torch.Generator().manual_seed(seed)
    noise = generator_noise(batch, generator)
    keeps = [
        sample_visible_tokens(time_frequency, config.grid, ratio, branch, noise)
        for ratio, branch in ((0.6, "time"), (0.4, "freq"))
    ]
    mels = [torch.randn(batch, *config.spec_size, generator=generator) for _ in keeps]
    return (mels[0], keeps[0]), (mels[1], keeps[1])


def saved_bytes(model: nn.Module, step: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Bytes of the activations a step keeps for its backward pass, and its loss.

    Each storage counts once, parameters not at all.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps the storages alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    return sum(kept.values()), loss


def run(quick: bool = False) -> list[Row]:
    """Seconds a step of both sides, operations, tokens, memory and share of the machine's peak."""
    config = (
        AudioMosaicConfig() if not quick else AudioMosaicEncoder.tiny().config.replace(attn_drop_rate=0.0)
    )
    config = config.replace(drop_path_rate=0.0)
    batch, rounds = 4, 2 if quick else 8
    torch.manual_seed(0)
    encoder = AudioMosaicEncoder(config).train()
    plain = PlainViT(encoder).train()
    views = make_views(config, batch)
    peaks: list[float] = []

    def ours() -> Tensor:
        return ours_step(encoder, views)

    def reference() -> Tensor:
        return plain_step(plain, views)

    def measure_peak() -> None:  # in the same minutes as the steps
        peaks.append(gemm_gflops(256 if quick else 2048, 2))

    with FlopCounterMode(display=False) as counter:
        memory, loss = saved_bytes(encoder, ours)
    plain_memory, plain_loss = saved_bytes(plain, reference)
    difference = abs(float(loss - plain_loss))
    pair = alternate(ours, reference, rounds, warm_up=False, between=measure_peak)
    kept = (views[0][1].shape[1], views[1][1].shape[1])
    flops = batch * step_flops(config, kept)
    measure_peak()
    # Each step beside the better of the products around its round: the machine is not equally fast all the time.
    shares = [flops / step / 1e9 / max(peak) for step, peak in zip(pair.ours, pairwise(peaks), strict=True)]
    achieved = flops / statistics.median(pair.ours) / 1e9
    size = f"ViT dim {config.embed_dim}, depth {config.depth}, batch {batch}, fp32"
    return [
        Row(
            "train step",
            f"masked forward + backward of the pair; {size}",
            spread(pair.ours, 1, "s"),
            spread(pair.reference, 1, "s"),
            str(pair),
            ">= 1x",
            f"plain ViT, same weights and tokens; losses differ by {difference:.0e}",
        ),
        Row(
            "train step",
            "operations and tokens",
            f"{flops / 1e9:.3g} GFLOP a step",
            note=f"flop_counter: {counter.get_total_flops() / 1e9:.3g} GFLOP (without the fused attention on the CPU); "
            f"{kept[0]} + {kept[1]} patches and 2 CLS a clip",
        ),
        Row(
            "train step",
            "activations kept for the backward pass",
            f"{memory / batch / 2**20:.4g} MiB/clip",
            f"{plain_memory / batch / 2**20:.4g} MiB/clip",
            f"{plain_memory / memory:.2f}x",
        ),
        Row(
            "train step",
            "share of the measured fp32 matrix-product peak",
            spread(shares, 100, "%"),
            aim=">= 70 %",
            note="each step beside the products before and after; "
            f"median step {achieved:.3g} GFLOP/s, best product {max(peaks):.3g}",
        ),
    ]


if __name__ == "__main__":
    main(run, __doc__)
