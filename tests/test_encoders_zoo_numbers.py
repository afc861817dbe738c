"""BEATs, AudioMAE, EAT and Dasheng compute what their publishers' code computes.

Twice: against numbers that the publishers' code made (beside the checkout), and against a second implementation in
this file, in float64 and without any of our parts, so that a clone without those numbers is checked as strictly.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as nnf
from torchaudio import transforms
from torchaudio.compliance import kaldi

from encoders import AudioEncoder, encoder_class, load_encoder

# Largest difference as a part of the expected tensor's standard deviation. The first shows a change of 1e-5 in a mean
# constant; the second leaves room for the rounding of a float32 FFT 100 dB below the peak of real recordings.
EXACT, REAL = 3e-5, 1e-3


def difference(expected: Tensor, got: Tensor) -> float:
    assert expected.shape == got.shape
    return ((expected - got).abs().max() / expected.std()).item()


# Numbers of the publishers' code.

FOLDERS = ["audiomae/a_finetuned", "audiomae/a_pretrained", "beats/a", "dasheng/a_hub", "dasheng/a_pt",
           "eat/a_fairseq", "eat/a_hub"]  # fmt: skip
LOG_MEL = {
    "beats": (15.41663, 2 * 6.55582),
    "audiomae": (-4.2677393, 2 * 4.5689974),
    "eat": (-4.268, 2 * 4.569),
}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        if "__Namespace__" in value:
            return argparse.Namespace(**value["__Namespace__"])
        return {key: plain(inner) for key, inner in value.items()}
    return value


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Path:
    if not (shared_dir / "golden" / "zoo").is_dir():
        pytest.skip("no numbers of the publishers' code beside the checkout (expected shared/golden/zoo)")
    return shared_dir / "golden" / "zoo"


@pytest.fixture(params=FOLDERS)
def published(request, golden: Path, tmp_path: Path) -> tuple[str, Path, dict[str, Tensor]]:
    """An encoder's name, its directory or file in the published layout, and what the publishers' code computes."""
    folder = golden / request.param
    expected = load_file(folder / "expected.safetensors")
    name = request.param.split("/")[0]
    if (folder / "config.json").is_file():
        return name, folder, expected
    layout = json.loads((folder / "layout.json").read_text())
    weights: dict[str, Any] = load_file(folder / "weights.safetensors")
    if "_ema" in layout.get("inside_model", {}):
        weights["_ema"] = {"blocks.0.norm1.weight": torch.ones(3)}
    content = {k: weights if v == "weights.safetensors" else plain(v) for k, v in layout["top_level"].items()}
    file = tmp_path / f"published{layout['suffix']}"
    torch.save(content, file)
    return name, file, expected


@torch.no_grad()
def test_numbers_are_those_of_the_publishers_code(published, golden: Path) -> None:
    name, source, expected = published
    waves = {key: value.float() / 32768 for key, value in load_file(golden / "inputs_a.safetensors").items()}

    def run(clip: str, **options: Any) -> tuple[AudioEncoder, Any]:
        encoder = load_encoder(source, model_class=name, **options)
        return encoder, encoder(waves[clip][None], torch.tensor([len(waves[clip])]))

    compared = 0
    for key, wanted in expected.items():
        kind, _, rest = key.partition(".")
        clip, _, part = rest.partition(".")
        options: dict[str, Any] = {"n_frames": int(part[8:])} if part.startswith("n_frames") else {}
        if part == "whole":
            if name == "dasheng":
                continue  # see the next test
            options = {"n_frames": 1408}  # BEATs encodes clips whole: as long as the longest clip here
        if kind == "mel":
            encoder, _ = run(clip)
            got = log_mel(name, encoder, waves[clip])
        elif kind in ("tokens", "cls"):
            encoder, out = run(clip, **options)
            at = int(part[6:]) if part.startswith("window") else 0
            first = at * encoder.config.steps_per_window * encoder.config.n_freq
            got = out.prefix[0, at : at + 1] if kind == "cls" else out.tokens[0, first : first + len(wanted)]
        elif key.startswith("pooled"):
            _, out = run(clip, pooling="published")
            got = out.pooled[0].reshape(wanted.shape)
        else:
            raise AssertionError(f"nothing here computes {key}")
        tolerance = EXACT if clip == "middle" else 1.1 * REAL if kind == "mel" else REAL
        assert difference(wanted, got) <= tolerance, key
        compared += 1
    assert compared >= 2


def log_mel(name: str, encoder: Any, wave: Tensor) -> Tensor:
    if name == "dasheng":
        decibel = 10 * encoder.mel(wave[None]).clamp(min=1e-10).log10()[0]
        return decibel.clamp(min=decibel.max() - 120.0)
    mean, divisor = LOG_MEL[name]
    scale = 2**15 if name == "beats" else 1
    return (encoder.fbank(wave[None] * scale, torch.tensor([len(wave)]))[0][0] - mean) / divisor


@torch.no_grad()
def test_dashengs_windows_differ_from_its_whole_clips_as_the_readme_says(
    golden: Path, tmp_path: Path
) -> None:
    folder = golden / "dasheng" / "a_pt"
    layout = json.loads((folder / "layout.json").read_text())["top_level"]
    torch.save(layout | {"model": load_file(folder / "weights.safetensors")}, tmp_path / "dasheng.pt")
    encoder = load_encoder(tmp_path / "dasheng.pt", model_class="dasheng")
    wave = load_file(golden / "inputs_a.safetensors")["long"].float() / 32768
    wanted = load_file(folder / "expected.safetensors")["tokens.long.whole"]
    got = encoder(wave[None], torch.tensor([len(wave)])).tokens[0, : len(wanted)]
    assert 0.05 < difference(wanted, got) < 0.2


# A second implementation.


def norm(x: Tensor, weights: dict[str, Tensor], name: str, eps: float = 1e-6) -> Tensor:
    return nnf.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Any = 0.0) -> Tensor:
    """(N, D) each -> (N, D), head by head."""
    parts = []
    for h, (a, b, c) in enumerate(
        zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    ):
        scores = a @ b.T / math.sqrt(a.shape[-1]) + (bias[h] if isinstance(bias, list) else bias)
        parts.append(scores.softmax(-1) @ c)
    return torch.cat(parts, -1)


def vit_block(x: Tensor, weights: dict[str, Tensor], name: str, heads: int, *, post_norm: bool) -> Tensor:
    def attend(y: Tensor) -> Tensor:
        q, k, v = linear(y, weights, f"{name}.attn.qkv").chunk(3, -1)
        return linear(attention(q, k, v, heads), weights, f"{name}.attn.proj")

    def mlp(y: Tensor) -> Tensor:
        return linear(nnf.gelu(linear(y, weights, f"{name}.mlp.fc1")), weights, f"{name}.mlp.fc2")

    if post_norm:
        x = norm(x + attend(x), weights, f"{name}.norm1")
        return norm(x + mlp(x), weights, f"{name}.norm2")
    x = x + attend(norm(x, weights, f"{name}.norm1"))
    return x + mlp(norm(x, weights, f"{name}.norm2"))


def patches(mel: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Time-major patches (N, D) of a log-mel (frames, mels)."""
    size = weights[f"{name}.weight"].shape[-1]
    rows = [
        (weights[f"{name}.weight"][:, 0] * mel[t : t + size, f : f + size]).sum((1, 2))
        for t in range(0, mel.shape[0] - size + 1, size)
        for f in range(0, mel.shape[1] - size + 1, size)
    ]
    bias = weights.get(f"{name}.bias", torch.zeros(len(rows[0])))
    return torch.stack(rows) + bias


def audioset_mel(wave: Tensor, mean: float, std: float, n_frames: int) -> Tensor:
    mel = kaldi.fbank(
        (wave - wave.mean())[None], htk_compat=True, sample_frequency=16000, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip
    return (nnf.pad(mel, (0, 0, 0, n_frames - len(mel))) - mean) / (std * 2)


def audiomae(weights: dict[str, Tensor], config: Any, wave: Tensor) -> tuple[Tensor, Tensor]:
    x = patches(audioset_mel(wave, -4.2677393, 4.5689974, config.n_frames), weights, "patch_embed.proj")
    x = torch.cat([weights["cls_token"][0], x]) + weights["pos_embed"][0]
    for i in range(config.depth):
        x = vit_block(x, weights, f"blocks.{i}", config.num_heads, post_norm=False)
    if not config.final_norm:
        return x[1:], norm(x[1:].mean(0), weights, "fc_norm")
    x = norm(x, weights, "norm")
    return x[1:], x[0]


def eat(weights: dict[str, Tensor], config: Any, wave: Tensor) -> tuple[Tensor, Tensor]:
    x = patches(audioset_mel(wave, -4.268, 4.569, config.n_frames), weights, "patch_embed.proj")
    x = torch.cat([weights["cls_token"][0], x + weights["positions"][0, : len(x)]])
    x = norm(x, weights, "pre_norm")
    for i in range(config.depth):
        x = vit_block(x, weights, f"blocks.{i}", config.num_heads, post_norm=True)
    return x[1:], x[0]


def dasheng(weights: dict[str, Tensor], config: Any, wave: Tensor) -> tuple[Tensor, None]:
    mel = transforms.MelSpectrogram(
        f_min=0,
        f_max=8000,
        sample_rate=16000,
        win_length=512,
        n_fft=512,
        hop_length=160,
        n_mels=config.n_mels,
    )
    decibel = transforms.AmplitudeToDB(top_db=120)(mel.double()(wave))[:, : config.target_length]  # (M, F)
    decibel = (decibel - weights["init_bn.1.running_mean"][:, None]) / (
        weights["init_bn.1.running_var"][:, None] + 1e-5
    ).sqrt()
    decibel = decibel * weights["init_bn.1.weight"][:, None] + weights["init_bn.1.bias"][:, None]
    kernel = weights["patch_embed.proj.weight"][:, 0]  # (D, M, 4)
    steps = [(kernel * decibel[:, 4 * t : 4 * t + 4]).sum((1, 2)) for t in range(decibel.shape[1] // 4)]
    x = torch.stack(steps) + weights["patch_embed.proj.bias"]
    x = x + weights["time_pos_embed"][0, :, 0, : len(x)].T + weights["freq_pos_embed"][0, :, 0, 0]
    for i in range(config.depth):
        x = vit_block(x, weights, f"blocks.{i}", config.num_heads, post_norm=False)
    return norm(x, weights, "norm"), None


def beats(weights: dict[str, Tensor], config: Any, wave: Tensor) -> tuple[Tensor, None]:
    mel = kaldi.fbank(
        wave[None] * 2**15, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10
    )
    x = patches((mel - 15.41663) / (2 * 6.55582), weights, "patch_embedding")
    x = linear(norm(x, weights, "layer_norm", 1e-5), weights, "post_extract_proj")
    g = weights["encoder.pos_conv.0.parametrizations.weight.original0"]  # (1, 1, K)
    v = weights["encoder.pos_conv.0.parametrizations.weight.original1"]
    kernel = g * v / v.square().sum((0, 1), keepdim=True).sqrt()
    positions = nnf.conv1d(
        x.T[None], kernel, weights["encoder.pos_conv.0.bias"], padding=config.conv_pos // 2,
        groups=config.conv_pos_groups,
    )[0, :, :-1]  # fmt: skip
    x = norm(x + nnf.gelu(positions).T, weights, "encoder.layer_norm", 1e-5)
    table = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    buckets = torch.tensor([[bucket(j - i, config) for j in range(len(x))] for i in range(len(x))])
    alpha = (2 * config.depth) ** 0.25 if config.deep_norm else 1.0
    for i in range(config.depth):
        own = f"encoder.layers.{i}"
        q, k, v = (linear(x, weights, f"{own}.self_attn.{part}_proj") for part in "qkv")
        bias = []
        for h, query in enumerate(q.chunk(config.num_heads, -1)):
            gates = linear(query, weights, f"{own}.self_attn.grep_linear").view(-1, 2, 4).sum(-1).sigmoid()
            constant = weights[f"{own}.self_attn.grep_a"][0, h, 0, 0]
            bias.append((gates[:, :1] * (gates[:, 1:] * constant - 1.0) + 2.0) * table[buckets, h])
        attended = linear(attention(q, k, v, config.num_heads, bias), weights, f"{own}.self_attn.out_proj")
        x = norm(x * alpha + attended, weights, f"{own}.self_attn_layer_norm", 1e-5)
        hidden = nnf.gelu(linear(x, weights, f"{own}.fc1"))
        x = norm(x * alpha + linear(hidden, weights, f"{own}.fc2"), weights, f"{own}.final_layer_norm", 1e-5)
    return x, None


def bucket(distance: int, config: Any) -> int:
    """T5's bucket of a relative position, in both directions."""
    half = config.num_buckets // 2
    start, distance = (half if distance > 0 else 0), abs(distance)
    if distance < half // 2:
        return start + distance
    far = math.log(distance / (half // 2)) / math.log(config.max_distance / (half // 2)) * (half - half // 2)
    return start + min(half - 1, half // 2 + int(far))


SIZES: dict[str, tuple[Any, dict[str, Any]]] = {
    "audiomae": (audiomae, {"embed_dim": 32, "depth": 2, "num_heads": 2, "n_frames": 96}),
    "audiomae-finetuned": (audiomae, {"embed_dim": 32, "depth": 2, "num_heads": 2, "n_frames": 96,
                                      "final_norm": False, "pooling": "published"}),
    "eat": (eat, {"embed_dim": 32, "depth": 2, "num_heads": 4, "n_frames": 96, "max_steps": 8, "pooling": "cls"}),
    "dasheng": (dasheng, {"embed_dim": 32, "depth": 2, "num_heads": 2, "target_length": 100, "n_mels": 64}),
    "beats": (beats, {"embed_dim": 32, "depth": 2, "num_heads": 2, "n_frames": 96, "patch_dim": 16, "conv_pos": 8,
                      "conv_pos_groups": 4, "num_buckets": 16, "max_distance": 24}),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("n_samples", [15000, 11111])
def test_numbers_are_those_of_a_second_implementation(case: str, n_samples: int) -> None:
    reference, sizes = SIZES[case]
    found = encoder_class(case.split("-")[0])
    encoder = found._tiny(found.config_class(**sizes), seed=0)
    generator = torch.Generator().manual_seed(1)
    for value in encoder.parameters():  # norms, biases, positions and gates too
        value.add_(0.1 * torch.randn(value.shape, generator=generator))
    if case == "dasheng":
        encoder.init_bn[1].running_mean.uniform_(-40, 10, generator=generator)
        encoder.init_bn[1].running_var.uniform_(50, 200, generator=generator)
    wave = 0.1 * torch.randn(n_samples, generator=generator)
    weights = {key: value.double() for key, value in encoder.state_dict().items()}
    if case == "beats":
        assert weights["encoder.layers.0.self_attn.relative_attention_bias.weight"].std() > 0.1
    tokens, feature = (
        made if made is None else made.float() for made in reference(weights, encoder.config, wave.double())
    )
    out = encoder(wave[None], torch.tensor([n_samples]))
    valid = int(out.mask.sum())
    assert valid >= 16 or case == "dasheng"
    assert difference(tokens[:valid], out.tokens[0, :valid]) <= EXACT
    if case in ("audiomae", "eat"):
        assert difference(feature, out.prefix[0, 0]) <= EXACT
    if "pooling" in sizes:
        assert difference(feature, out.clip_features()[0]) <= EXACT
    else:
        assert torch.allclose(out.clip_features()[0], out.tokens[0, :valid].mean(0), atol=1e-5)


@torch.no_grad()
def test_a_long_clips_own_feature_weighs_windows_by_their_time_steps() -> None:
    found = encoder_class("eat")
    encoder = found._tiny(found.config_class(**SIZES["eat"][1]), seed=0)
    window = encoder.config.hop_samples
    wave = 0.1 * torch.randn(2, window + 8000, generator=torch.Generator().manual_seed(0))
    out = encoder(wave, torch.tensor([window + 8000, 9000]))
    steps = [encoder.config.steps_in(encoder.config.window_samples), encoder.config.steps_in(8000)]
    first, second = out.prefix[0]
    wanted = (steps[0] * first + steps[1] * second) / sum(steps)
    assert steps[0] != steps[1] and torch.allclose(out.pooled[0], wanted, atol=1e-6)
    assert torch.allclose(out.pooled[1], out.prefix[1, 0])
