"""Configs, strict loading and the registry: what fits loads exactly, and what does not fit gives a reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import encoders
from alm.common.errors import AudioError, CheckpointError, ConfigError
from alm.common.files import sha256_of
from encoders import AudioMosaicEncoder, config_from_dict, encoder_class, load_encoder
from encoders.checkpoint import load_strict, read_weights
from encoders.vit import interpolate_positions, sincos_positions
from encoders.zoo.audiomosaic.model import NORMALISATIONS, AudioMosaicConfig


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_import_is_light() -> None:
    code = "import encoders, sys; print('torch' in sys.modules or 'soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_default_is_the_published_size() -> None:
    config = AudioMosaicConfig()
    assert (config.dim, config.grid, config.frame_rate_hz, config.clip_s) == (768, (64, 8), 6.25, 10.24)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AudioMosaicEncoder(config).parameters())
        backbone = AudioMosaicEncoder(config.replace(model_class="AudioMosaicEncoder"))
    assert parameters == 86_111_232
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 85.65


def test_n_time_for() -> None:
    config = AudioMosaicConfig()
    frames = {400: 1, 400 + 15 * 160: 16, 400 + 16 * 160: 17, 160000: 998, 480000: 2998}
    for n_samples, n_frames in frames.items():
        assert config.n_time_for(n_samples) == -(-n_frames // 16)
    for too_short in (399, 0):
        with pytest.raises(AudioError, match="shorter than one"):
            config.n_time_for(too_short)
    with pytest.raises(AudioError, match="clip 1 of the batch"):
        AudioMosaicEncoder.tiny()(torch.zeros(2, 16000), torch.tensor([16000, 100]))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation_round_trip(name: str) -> None:
    config = AudioMosaicConfig(normalisation=name)
    values = json.loads(json.dumps(config.to_dict()))
    assert AudioMosaicConfig.from_dict(values) == config
    assert config_from_dict(values) == config


def test_silence_lands_where_training_put_it() -> None:
    silence = torch.full((1,), -15.9424)  # the log-mel floor
    for name, wanted in (("audioset_train", -1.28), ("release_card", -2.56), ("ltu", -2.42)):
        norm = AudioMosaicConfig(normalisation=name).norm
        assert ((silence - norm.mean) / norm.divisor).item() == pytest.approx(wanted, abs=0.01)


def test_release_statistics_become_names(tmp_path: Path) -> None:
    stats = {"esc50": (-6.6268077, 5.358466), "speech_commands": (-6.845978, 5.5654526)}
    for name, (mean, std) in stats.items():
        config = AudioMosaicConfig.from_dict(
            {
                "spec_size": [512, 128],
                "audio_preprocessing": {"target_length": 512, "norm_mean": mean, "norm_std": std},
            }
        )
        assert config.normalisation == name
    custom = AudioMosaicConfig.from_dict({"audio_preprocessing": {"norm_mean": -3.0, "norm_std": 2.0}})
    assert (custom.normalisation, custom.norm.mean, custom.norm.divisor) == ("custom", -3.0, 4.0)
    assert AudioMosaicConfig.from_dict(custom.to_dict()) == custom
    assert custom.replace(normalisation="ltu").norm == NORMALISATIONS["ltu"]
    assert AudioMosaicConfig().replace(norm_mean=-3.0, norm_std=2.0) == custom


def test_silent_release_keys_have_official_defaults(tmp_path: Path) -> None:
    official = AudioMosaicConfig.from_release({"model_class": "AudioMosaicPretrain"}, "config.json")
    assert (official.pooling, official.use_fc_norm, official.proj_bias) == ("cls", False, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dimm": 64}, "unknown key 'embed_dimm'; did you mean 'embed_dim'?"),
        ({"embed_dim": "64"}, "embed_dim is '64'; expected a value of type int"),
        ({"depth": True}, "depth is True"),
        ({"spec_size": [1024]}, r"spec_size is \[1024\]; expected 2 values"),
        ({"spec_size": [1000, 128]}, "whole patches of 16"),
        ({"num_heads": 7}, "num_heads is 7; expected a divisor"),
        ({"pooling": "max"}, "pooling is 'max'; expected one of avg, cls, fusion"),
        ({"normalisation": "imagenet"}, "normalisation is 'imagenet'; expected one of audioset_train"),
        ({"normalisation": "custom"}, "norm_mean and norm_std"),
        ({"norm_mean": 1.0}, "norm_mean and norm_std"),
        ({"audio_preprocessing": {"norm_meen": 1.0}}, "unknown key 'norm_meen'; did you mean 'norm_mean'?"),
        ({"audio_preprocessing": {"target_length": 512}}, "target_length is 512 but spec_size says 1024"),
        ({"audio_preprocessing": 3}, "expected a mapping"),
        ({"audio_preprocessing": {}, "spec_size": 5}, "spec_size is 5; expected 2 values"),
        ({"drop_rate": 0.1}, "use classifier_drop_out"),
        ({"online_classifier": True}, "online_classifier"),
        ({"model_class": "AudioMosaicPretrian"}, "model_class is 'AudioMosaicPretrian'"),
    ],
)
def test_bad_config(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        AudioMosaicConfig.from_dict(values, where="run.yaml: encoder")
    assert str(caught.value).startswith("run.yaml: encoder: ") and "\n" not in str(caught.value)


def test_registry_names() -> None:
    assert encoder_class("audiomosaic") is encoder_class("AudioMosaicClassifier") is AudioMosaicEncoder
    with pytest.raises(ConfigError, match="did you mean 'audiomosaic'"):
        load_encoder("audiomosiac")
    with pytest.raises(ConfigError, match="did you mean 'AudioMosaicPretrain'"):
        config_from_dict({"model_class": "AudioMosaicPretrian"})
    with pytest.raises(ConfigError, match="model_class is missing"):
        config_from_dict({"embed_dim": 64})
    with pytest.raises(ConfigError, match="unknown key 'n_mel'; did you mean 'n_mels'"):
        load_encoder("logmel", n_mel=64)
    with pytest.raises(AttributeError):
        _ = encoders.nothing


def test_load_by_directory_and_overrides(saved: Path) -> None:
    encoder = load_encoder(saved)
    assert not encoder.training and not encoder.load_report.missing and not encoder.load_report.unexpected
    assert len(encoder.load_report.matched) == len(encoder.state_dict())
    assert load_encoder(saved, use_checkpoint=True).config.use_checkpoint
    with pytest.raises(ConfigError, match="unknown key"):
        load_encoder(saved, colour="red")


def test_changed_spec_size_interpolates_positions(saved: Path) -> None:
    trained, longer = load_encoder(saved), load_encoder(saved, spec_size=(128, 32))
    assert longer.config.grid == (16, 2)
    wanted = interpolate_positions(trained.pos_embed, (8, 2), (16, 2))
    assert torch.equal(longer.pos_embed, wanted)
    longer.save_pretrained(saved)  # and what was interpolated reloads as it is
    assert torch.equal(load_encoder(saved).pos_embed, wanted)


@pytest.mark.parametrize("n_frames", [8, 24, 48, 72, 192])
def test_any_clip_length_keeps_time_and_frequency_apart(saved: Path, n_frames: int) -> None:
    """Positions that know only their time, or only their band, still do after interpolation to any length."""
    trained = load_encoder(saved)
    with torch.no_grad():
        grid = torch.zeros(8, 2, 32)
        grid[..., :16] = torch.linspace(0, 1, 8)[:, None, None]  # time rises in one half of the width
        grid[:, 1, 16:] = 1.0  # the upper band is marked in the other
        trained.pos_embed[0, 1:] = grid.flatten(0, 1)
    trained.save_pretrained(saved)
    other = load_encoder(saved, spec_size=(n_frames, 32))
    table = other.pos_embed[0, 1:].unflatten(0, (n_frames // 8, 2))
    assert torch.allclose(table[:, 0, :16], table[:, 1, :16], atol=1e-6)
    assert (table[1:, 0, 0] >= table[:-1, 0, 0] - 1e-3).all()
    assert torch.allclose(table[..., 16:], grid[:1, :, 16:], atol=1e-6)
    with torch.no_grad():
        assert other(torch.randn(1, 16000) * 0.1, torch.tensor([16000])).tokens.isfinite().all()


def test_kept_tokens_are_computed_as_if_the_others_were_dropped_later(saved: Path) -> None:
    encoder = load_encoder(saved)
    mel, everything = torch.randn(2, 64, 32), torch.arange(16).expand(2, -1)
    whole = encoder.forward_mel(mel)
    assert torch.allclose(encoder.forward_mel(mel, everything), whole, atol=1e-5)
    encoder.blocks = torch.nn.ModuleList()  # what reaches the first block
    keep = torch.tensor([[3, 0, 15], [7, 7, 2]])
    embedded = encoder.forward_mel(mel)
    wanted = torch.cat(
        [embedded[:, :1], torch.stack([x[1:][k] for x, k in zip(embedded, keep, strict=True)])], 1
    )
    assert torch.allclose(encoder.forward_mel(mel, keep), wanted, atol=1e-6)


def test_positions_follow_the_time_major_grid() -> None:
    table = sincos_positions(32, (8, 2))[0, 1:].unflatten(0, (8, 2))
    assert torch.equal(table[:, 0, 16:], table[:, 1, 16:])  # the time half is the same in both bands
    assert torch.equal(table[0, :, :16], table[5, :, :16])  # the frequency half is the same at all times
    stretched = interpolate_positions(sincos_positions(32, (8, 2)), (8, 2), (16, 2))[0, 1:].unflatten(
        0, (16, 2)
    )
    assert (stretched[1:-1:2, :, 16:20] - table[:-1, :, 16:20]).abs().max() < 0.5
    assert (stretched[:, 0, :16] - stretched[:, 1, :16]).abs().min(dim=0).values.max() > 0.1
    half = interpolate_positions(sincos_positions(32, (8, 2)).bfloat16(), (8, 2), (4, 2))
    assert half.dtype == torch.bfloat16 and torch.equal(half[:, 0], torch.zeros(1, 32))


@pytest.mark.parametrize("pooling", ["avg", "cls", "fusion"])
def test_pooling_is_what_the_official_code_pools(pooling: str) -> None:
    """By hand: CLS is part of the mean for `avg`, alone for `cls`, and beside the patches' mean for `fusion`."""
    config = AudioMosaicEncoder.tiny().config
    config = config.replace(model_class="AudioMosaicClassifier", num_classes=3, pooling=pooling)
    encoder = AudioMosaicEncoder(config).eval()
    tokens = torch.randn(3, 1 + 16, config.embed_dim, generator=torch.Generator().manual_seed(0))
    rows = tokens.double().numpy()
    cls, patches = rows[:, 0], rows[:, 1:].sum(axis=1) / 16
    wanted = {"avg": (cls + 16 * patches) / 17, "cls": cls, "fusion": np.concatenate([cls, patches], axis=1)}
    np.testing.assert_allclose(encoder.pool(tokens).numpy(), wanted[pooling], atol=1e-6)
    wave, length = torch.randn(1, 9000), torch.tensor([9000])
    with torch.no_grad():
        out = encoder(wave, length)
        mel, _ = encoder.log_mel_windows(wave, length)
        window = encoder.pool(encoder.forward_mel(encoder.normalise(mel[:, 0])))
    torch.testing.assert_close(out.pooled, window)


def test_changed_model_class_swaps_the_head(saved: Path) -> None:
    backbone = load_encoder(saved, model_class="AudioMosaicEncoder")
    assert all(key.startswith("projector.") for key in backbone.load_report.unexpected)
    classifier = load_encoder(saved, model_class="AudioMosaicClassifier", num_classes=5)
    assert classifier.load_report.missing == ("head.weight", "head.bias")
    assert classifier.classify(torch.randn(3, 32)).shape == (3, 5)
    with pytest.raises(ConfigError, match="no contrastive head"):
        classifier.embed_head(torch.randn(3, 32))
    with pytest.raises(ConfigError, match="no classifier"):
        load_encoder(saved).classify(torch.randn(3, 32))


def test_missing_unexpected_and_misshaped_are_all_named(saved: Path) -> None:
    def change(weights: dict) -> None:
        del weights["norm_pre.bias"]
        weights["extra.weight"] = torch.zeros(3)
        weights["blocks.1.mlp.fc1.bias"] = torch.zeros(7)

    edit_weights(saved, change)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(saved)
    message = str(caught.value)
    for part in (
        "missing norm_pre.bias (32,)",
        "unexpected extra.weight (3,)",
        "blocks.1.mlp.fc1.bias: (7,) for (128,)",
    ):
        assert part in message
    assert str(saved) in message and "\n" not in message


def test_allowed_keys_pass_and_are_reported() -> None:
    module = torch.nn.Linear(2, 3)
    weights = {"weight": torch.ones(3, 2), "extra.x": torch.ones(1)}
    report = load_strict(module, weights, source="here", allow_missing=["bias"], allow_unexpected=["extra.*"])
    assert report.matched == ("weight",) and report.missing == ("bias",) and report.unexpected == ("extra.x",)
    assert str(report) == "1 matched; 1 missing (bias); 1 unexpected (extra.x); 0 misshaped"
    assert torch.equal(module.weight, torch.ones(3, 2))


def test_wrapper_prefixes_and_nesting(tmp_path: Path) -> None:
    torch.save({"model": {"module._orig_mod.a.b": torch.ones(1)}, "epoch": 3}, tmp_path / "last.pt")
    assert read_weights(tmp_path / "last.pt").keys() == {"a.b"}


class Unpicklable:
    """Loading it would run code."""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"not a safetensors file", "cannot be read"),
        ("model.safetensors", b"", "cannot be read"),
        ("last.pt", b"junk", "is not a plain state dict|cannot be read"),
    ],
)
def test_unreadable_weights(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / name)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Unpicklable()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="evil.pt"):
        read_weights(tmp_path / "evil.pt")


def test_places_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        load_encoder(tmp_path / "none")
    with pytest.raises(ConfigError, match="config.json: no such file"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ConfigError, match=r"config\.json: broken JSON"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(AudioMosaicEncoder.tiny().config.to_dict()))
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_encoder(tmp_path)


def test_hub_id_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError,
        match="not a local directory and could not be downloaded from the Hub.*give the directory",
    ):
        load_encoder("some-organisation/some-encoder")


def test_save_into_an_impossible_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be made"):
        AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "file" / "encoder")


def test_saved_files_are_the_release_layout(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    values = json.loads((saved / "config.json").read_text())
    assert (
        values["model_class"] == "AudioMosaicPretrain"
        and values["audio_preprocessing"]["target_length"] == 64
    )
    assert len(sha256_of(saved / "model.safetensors")) == 64


def test_activation_checkpointing_changes_nothing(saved: Path) -> None:
    gradients = []
    for use in (False, True):
        encoder = load_encoder(saved, use_checkpoint=use, drop_path_rate=0.0, attn_drop_rate=0.0).train()
        tokens = encoder.forward_mel(torch.ones(2, 64, 32))
        tokens.square().mean().backward()
        gradients.append([p.grad for p in encoder.blocks.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-7)


def test_windows_are_encoded_in_bounded_passes(saved: Path) -> None:
    encoder = load_encoder(saved)
    sizes: list[int] = []
    encoder.blocks[0].register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    clips = torch.randn(2, 64 * 160 * 5 + 400) * 0.1
    lengths = torch.tensor([clips.shape[1], 2000])
    with torch.no_grad():
        whole = encoder(clips, lengths)
        assert sizes == [7]  # six windows of the long clip and the one the short clip has, nothing else
        encoder.max_windows_per_pass = 3
        parts = encoder(clips, lengths)
    assert sizes[1:] == [3, 3, 1]
    assert torch.allclose(whole.tokens, parts.tokens, atol=1e-6)
    assert whole.prefix.shape == (2, 6, 32) and (whole.prefix[1, 1:] == 0).all()
