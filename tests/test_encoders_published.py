"""Encoders of our own making read the layouts other projects publish, and compute what independent code computes."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alm.common.errors import CheckpointError, ConfigError
from encoders import AudioEncoder, encoder_class, load_encoder
from encoders.mel import KaldiFbank

# The layouts as the official code names them: a rename for every key, and what lies beside the state dict.


def beats(encoder: AudioEncoder) -> dict[str, Any]:
    weights = {}
    for key, value in encoder.state_dict().items():
        key = key.replace("parametrizations.weight.original0", "weight_g")
        weights[key.replace("parametrizations.weight.original1", "weight_v")] = value
    shared = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    weights["encoder.layers.1.self_attn.relative_attention_bias.weight"] = shared
    weights |= {"predictor.weight": torch.ones(5, 32), "predictor.bias": torch.ones(5)}
    own = encoder.config
    cfg = {
        "input_patch_size": 16, "embed_dim": 16, "encoder_embed_dim": 32, "encoder_layers": 2,
        "encoder_ffn_embed_dim": 128, "encoder_attention_heads": 2, "conv_bias": False, "conv_pos": own.conv_pos,
        "conv_pos_groups": own.conv_pos_groups, "relative_position_embedding": True, "gru_rel_pos": True,
        "num_buckets": own.num_buckets, "max_distance": own.max_distance, "deep_norm": True,
        "layer_norm_first": False, "activation_fn": "gelu", "layer_wise_gradient_decay_ratio": 0.6,
    }  # fmt: skip
    return {"cfg": cfg, "model": weights}


def audiomae(encoder: AudioEncoder) -> dict[str, Any]:
    weights = dict(encoder.state_dict())
    weights |= {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 32)}
    return {"model": weights, "epoch": 32, "args": argparse.Namespace(lr=1e-3)}


def eat(old: str, beside: dict[str, Any]) -> Callable[[AudioEncoder], dict[str, Any]]:
    def save(encoder: AudioEncoder) -> dict[str, Any]:
        trunk = "" if old.startswith("modality") else old
        norm = f"{old}context_encoder.norm." if old.startswith("modality") else f"{old}pre_norm."
        weights = {}
        for key, value in encoder.state_dict().items():
            name = f"{trunk}{key}" if key.startswith("blocks.") else f"{old}{key}"
            for ours, theirs in (
                (f"{old}patch_embed.", f"{old}local_encoder."),
                (f"{old}cls_token", f"{old}extra_tokens"),
                (f"{old}positions", f"{old}fixed_positional_encoder.positions"),
                (f"{old}pre_norm.", norm),
            ):
                name = name.replace(ours, theirs)
            weights[name] = value
        return {"model": weights | beside}

    return save


def dasheng(prefix: str) -> Callable[[AudioEncoder], dict[str, Any]]:
    def save(encoder: AudioEncoder) -> dict[str, Any]:
        weights = {f"{prefix}{key}": value for key, value in encoder.state_dict().items()}
        weights[f"{prefix}front_end.0.spectrogram.window"] = torch.ones(512)
        return {"model": weights, "config": {"embed_dim": 32, "num_heads": 2}}

    return save


PATCHES = {"embed_dim": 32, "depth": 2, "num_heads": 1, "n_frames": 64}
LAYOUTS: dict[str, tuple[str, dict[str, Any], Callable[[AudioEncoder], dict[str, Any]], tuple[str, ...]]] = {
    "beats": (
        "beats",
        PATCHES | {"num_heads": 2, "patch_dim": 16, "conv_pos": 8, "conv_pos_groups": 4, "num_buckets": 32},
        beats,
        ("encoder.pos_conv.0.weight_g", "post_extract_proj.weight", "encoder.layers.1.self_attn.grep_a",
         "encoder.layers.0.final_layer_norm.bias", "patch_embedding.weight", "layer_norm.weight"),
    ),
    "audiomae": (
        "audiomae",
        PATCHES,
        audiomae,
        ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "norm.weight"),
    ),
    "eat-hub": (
        "eat",
        PATCHES | {"max_steps": 8},
        eat("model.", {"model.head.weight": torch.ones(2)}),
        ("model.local_encoder.proj.weight", "model.extra_tokens", "model.pre_norm.weight",
         "model.fixed_positional_encoder.positions", "model.blocks.0.attn.proj.weight"),
    ),
    "eat-fairseq": (
        "eat",
        PATCHES | {"max_steps": 4},
        eat("modality_encoders.IMAGE.", {"modality_encoders.IMAGE.decoder.proj.weight": torch.ones(2),
                                         "_ema": {"blocks.0.norm1.weight": torch.ones(2)}}),
        ("modality_encoders.IMAGE.local_encoder.proj.bias", "modality_encoders.IMAGE.extra_tokens",
         "modality_encoders.IMAGE.context_encoder.norm.weight", "blocks.0.mlp.fc1.weight"),
    ),
    "dasheng": (
        "dasheng",
        {"embed_dim": 32, "depth": 2, "num_heads": 2, "target_length": 80},
        dasheng(""),
        ("init_bn.1.running_mean", "time_pos_embed", "freq_pos_embed", "patch_embed.proj.weight", "norm.bias"),
    ),
    "dasheng-hub": (
        "dasheng",
        {"embed_dim": 32, "depth": 2, "num_heads": 2, "target_length": 80},
        dasheng("encoder."),
        ("encoder.init_bn.1.weight", "encoder.blocks.0.norm2.weight"),
    ),
}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def published(request, tmp_path) -> tuple[str, Path, AudioEncoder]:
    name, sizes, layout, official = LAYOUTS[request.param]
    found = encoder_class(name)
    encoder = found._tiny(found.config_class(**sizes), seed=1)
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(2)))
    content = layout(encoder)
    assert set(official) <= set(content["model"])  # as the official code names them
    torch.save(content, tmp_path / "published.pt")
    return name, tmp_path / "published.pt", encoder


@torch.no_grad()
def test_an_official_file_loads_to_the_same_tokens(published) -> None:
    name, file, encoder = published
    window = {"n_frames": 64} if name in ("beats", "eat") else {}  # their files do not tell it
    loaded = load_encoder(file, model_class=name, **window)
    assert loaded.config == encoder.config and not loaded.load_report.missing
    wave = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20000, 9000])
    assert torch.equal(loaded(wave, lengths).tokens, encoder(wave, lengths).tokens)
    loaded.save_pretrained(file.parent / "ours")
    assert load_encoder(file.parent / "ours").config == encoder.config


def test_a_file_of_another_kind_is_refused(published) -> None:
    name, file, _ = published
    with pytest.raises(ConfigError, match="model_class=beats"):
        load_encoder(file)
    content = torch.load(file, weights_only=False)
    stray = next(
        key for key in content["model"] if key.endswith("norm1.weight") or key.endswith("fc1.weight")
    )
    content["model"][stray.replace("weight", "wait")] = content["model"].pop(stray)
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="wait|norm1.weight"):
        load_encoder(file, model_class=name)


def test_a_hub_directory_is_known_by_its_model_type(tmp_path) -> None:
    from safetensors.torch import save_file

    encoder = encoder_class("dasheng").tiny()
    save_file({f"encoder.{k}": v for k, v in encoder.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "dasheng", "encoder_kwargs": {"num_heads": 2}}')
    assert load_encoder(tmp_path).config == encoder.config


# Independent code that computes the same parts.


@torch.no_grad()
def test_beats_front_end_is_kaldis() -> None:
    from torchaudio.compliance import kaldi

    wave = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 2**15
    expected = kaldi.fbank(wave, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10)
    fbank: KaldiFbank = encoder_class("beats")._tiny(encoder_class("beats").config_class(depth=1), 0).fbank
    assert (fbank(wave, torch.tensor([16000]))[0][0] - expected).abs().max() < 1e-3


@torch.no_grad()
def test_dasheng_front_end_is_torchaudios() -> None:
    from torchaudio import transforms

    encoder = encoder_class("dasheng").tiny()
    mel = transforms.MelSpectrogram(
        sample_rate=16000,
        n_fft=512,
        win_length=512,
        hop_length=160,
        f_min=0,
        f_max=8000,
        n_mels=16,
        center=True,
    )
    wave = 0.1 * torch.randn(1, 10000, generator=torch.Generator().manual_seed(0))
    wave[:, 5000:] = 0
    expected = transforms.AmplitudeToDB(top_db=120)(mel(wave))  # (1, M, F)
    seen: list[Tensor] = []
    encoder.init_bn.register_forward_hook(lambda module, args, out: seen.append(args[0][..., 0]))
    encoder(wave, torch.tensor([10000]))
    assert (seen[0] - expected).abs().max() < 1e-3


@torch.no_grad()
def test_beats_attention_is_wavlms() -> None:
    """Equal but for the gate, which there reads the query before its projection: so the test removes the projection."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    encoder = encoder_class("beats").tiny()
    own = encoder.encoder.layers[0].self_attn
    own.q_proj.weight.copy_(torch.eye(32))
    own.q_proj.bias.zero_()
    own.grep_linear.weight.normal_(generator=torch.Generator().manual_seed(1))
    other = WavLMAttention(32, 2, num_buckets=32, max_distance=64).eval()
    renamed = {"gru_rel_pos_linear": "grep_linear", "gru_rel_pos_const": "grep_a",
               "rel_attn_embed": "relative_attention_bias"}  # fmt: skip
    weights = own.state_dict()
    for key in other.state_dict():
        head, _, tail = key.partition(".")
        other.state_dict()[key].copy_(weights[".".join(filter(None, (renamed.get(head, head), tail)))])
    x = torch.randn(3, 40, 32, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(3, 1, 1, 40, dtype=torch.bool)
    seen[1, ..., 30:] = False
    expected = other(x, attention_mask=seen[:, 0, 0].long())[0]
    got = own(x, encoder.encoder._bias(40, x.device), seen)
    assert (got - expected)[:, :30].abs().max() < 1e-5


@torch.no_grad()
def test_eat_block_is_torchs_post_norm_layer() -> None:
    block = encoder_class("eat").tiny().blocks[0]
    layer = nn.TransformerEncoderLayer(
        32, 2, 128, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=False
    ).eval()
    names = {"self_attn.in_proj_weight": "attn.qkv.weight", "self_attn.in_proj_bias": "attn.qkv.bias",
             "self_attn.out_proj.weight": "attn.proj.weight", "self_attn.out_proj.bias": "attn.proj.bias",
             "linear1.weight": "mlp.fc1.weight", "linear1.bias": "mlp.fc1.bias",
             "linear2.weight": "mlp.fc2.weight", "linear2.bias": "mlp.fc2.bias"}  # fmt: skip
    layer.load_state_dict({key: block.state_dict()[names.get(key, key)] for key in layer.state_dict()})
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    assert (block(x) - layer(x)).abs().max() < 1e-5
