"""A weights file's encoder: given on the command line, in a config beside it, or by the file; others are refused."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.cli import main
from alm.common.errors import CheckpointError, ConfigError
from encoders import AudioEncoder, encoder_class, load_encoder
from encoders.audio import save_wav
from encoders.checkpoint import read_weights, write_weights

BEATS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "n_frames": 64, "patch_dim": 16, "conv_pos": 8,
         "conv_pos_groups": 4, "num_buckets": 32}  # fmt: skip


def beats_file(folder: Path, leave_out: tuple[str, ...] = (), **changes) -> tuple[Path, AudioEncoder]:
    found = encoder_class("beats")
    encoder = found._tiny(found.config_class(**BEATS), seed=1)
    cfg = {
        "input_patch_size": 16, "embed_dim": 16, "encoder_embed_dim": 32, "encoder_layers": 2,
        "encoder_ffn_embed_dim": 128, "encoder_attention_heads": 2, "conv_bias": False, "conv_pos": 8,
        "conv_pos_groups": 4, "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 32,
        "max_distance": 800, "deep_norm": True, "layer_norm_first": False, "activation_fn": "gelu",
    }  # fmt: skip
    cfg = {key: value for key, value in (cfg | changes).items() if key not in leave_out}
    torch.save({"cfg": cfg, "model": encoder.state_dict()}, folder / "BEATs_iter3.pt")
    return folder / "BEATs_iter3.pt", encoder


def test_commands_take_the_encoder_of_a_file(tmp_path, capsys) -> None:
    file, encoder = beats_file(tmp_path)
    save_wav(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    embed = ["embed", str(file), str(tmp_path / "a.wav"), "--out", str(tmp_path / "x.npz")]
    assert main(embed) == 2
    assert "--encoder-option" in (err := capsys.readouterr().err) and "model_class=beats" in err
    options = ["--encoder-option", "model_class=beats", "--encoder-option", "n_frames=64"]
    assert main([*embed, *options]) == 0
    frames = np.load(tmp_path / "x.npz")["frames"]
    from encoders.audio import load_audio

    with torch.no_grad():
        wave = torch.from_numpy(load_audio(tmp_path / "a.wav", 16000))
        tokens = encoder(wave[None], torch.tensor([16000])).tokens[0].unflatten(0, (-1, 8)).mean(1)
    assert np.allclose(frames, tokens.numpy(), atol=1e-5)
    capsys.readouterr()
    assert main(["encoders", "info", str(file), *options]) == 0
    assert "config.n_frames: 64" in capsys.readouterr().out
    assert main(["encoders", "check", "logmel", "--encoder-option", "n_mels=64"]) == 2
    assert "tiny size" in capsys.readouterr().err
    assert main(["encoders", "info", "logmel", "--encoder-option", "n_mels=64"]) == 0
    assert "config.n_mels: 64" in capsys.readouterr().out
    assert main(["encoders", "info", "logmel", "--encoder-option", "n_mels"]) == 2


def test_what_is_said_wins_over_another_models_config_beside_a_file(tmp_path) -> None:
    file, encoder = beats_file(tmp_path)
    for values in ({"model_class": "AudioMosaicPretrain"}, {"model_type": "bert"}, {"model_type": "eat"}):
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert load_encoder(file, model_class="beats", n_frames=64).config == encoder.config
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ConfigError, match="config.json"):
        load_encoder(file)
    encoder_class("audiomosaic").tiny().save_pretrained(tmp_path / "mosaic")
    with pytest.raises(ConfigError, match="AudioMosaicEncoder, model_class=beats that of BeatsEncoder"):
        load_encoder(tmp_path / "mosaic", model_class="beats")
    bare = load_encoder(tmp_path / "mosaic" / "model.safetensors", model_class="AudioMosaicEncoder")
    assert bare.config.model_class == "AudioMosaicEncoder"  # of the same family: the config value it is


@pytest.mark.parametrize("name", ["dasheng", "beats", "whisper", "logmel", "audiomosaic"])
def test_the_file_inside_an_encoder_directory_is_the_directory(name, tmp_path) -> None:
    encoder = encoder_class(name).tiny()
    encoder.save_pretrained(tmp_path)
    for options in ({}, {"model_class": name}):
        loaded = load_encoder(tmp_path / "model.safetensors", **options)
        assert loaded.config == encoder.config
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in encoder.state_dict().items())


def dasheng_hub(folder: Path, **kwargs) -> Path:
    from safetensors.torch import save_file

    encoder = encoder_class("dasheng").tiny()
    save_file({f"encoder.{k}": v for k, v in encoder.state_dict().items()}, folder / "model.safetensors")
    values = {"model_type": "dasheng", "encoder_kwargs": {"num_heads": 4} | kwargs}
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "model.safetensors"


def test_a_hub_files_own_config_is_read(tmp_path) -> None:
    file = dasheng_hub(tmp_path)
    assert load_encoder(file, model_class="dasheng").config.num_heads == 4
    assert load_encoder(file).config.num_heads == load_encoder(tmp_path).config.num_heads == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("f_max", 7600), ("f_min", 50), ("hop_size", 320), ("center", False), ("win_size", 400), ("n_fft", 1024),
     ("patch_stride", [16, 2]), ("qkv_bias", False), ("init_values", 1e-5), ("top_db", 80), ("n_mels", 128),
     ("target_length", 1008), ("depth", 3), ("mlp_ratio", 2)],
)  # fmt: skip
def test_dasheng_values_that_change_tokens_are_refused(key, value, tmp_path) -> None:
    file = dasheng_hub(tmp_path, **{key: value})
    with pytest.raises(ConfigError, match=f"{key} is .*supported"):
        load_encoder(file.parent)


def eat_hub(folder: Path, **changes) -> Path:
    from safetensors.torch import save_file

    found = encoder_class("eat")
    encoder = found._tiny(
        found.config_class(embed_dim=32, depth=2, num_heads=2, n_frames=64, max_steps=8), seed=1
    )
    names = {"patch_embed.": "local_encoder.", "cls_token": "extra_tokens",
             "positions": "fixed_positional_encoder.positions"}  # fmt: skip
    weights = {}
    for key, value in encoder.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs) if key.startswith(ours) else key
        weights[f"model.{key}"] = value
    save_file(weights, folder / "model.safetensors")
    values = {"model_type": "eat", "num_heads": 2, "img_size": [64, 128], "norm_eps": 1e-6, "mel_bins": 128}
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_norm_first", True), ("norm_eps", 1e-5), ("norm_affine", False), ("stride", 10), ("in_chans", 3),
     ("fixed_positions", False), ("qkv_bias", False), ("patch_size", 8), ("img_size", [64, 64])],
)  # fmt: skip
def test_eat_values_that_change_tokens_are_refused(key, value, tmp_path) -> None:
    with pytest.raises(ConfigError, match=f"{key} is .*supported"):
        load_encoder(eat_hub(tmp_path, **{key: value}))


def test_eats_window_is_the_configs_and_within_its_positions(tmp_path) -> None:
    assert load_encoder(eat_hub(tmp_path)).config.n_frames == 64
    assert load_encoder(tmp_path, n_frames=128).config.steps_per_window == 8
    with pytest.raises(ConfigError, match="n_frames is 144, 9 time steps; expected at most 128"):
        load_encoder(tmp_path, n_frames=144)


def test_what_a_beats_cfg_leaves_out_has_the_official_default(tmp_path) -> None:
    file, encoder = beats_file(tmp_path, leave_out=("conv_bias", "layer_norm_first", "activation_fn"))
    assert load_encoder(file, model_class="beats", n_frames=64).config == encoder.config
    file, _ = beats_file(tmp_path, leave_out=("max_distance", "deep_norm"))
    config = load_encoder(file, model_class="beats").config
    assert (config.max_distance, config.deep_norm) == (
        1280,
        False,
    )  # BEATsConfig's, not the published iter3's
    file, _ = beats_file(tmp_path, leave_out=("gru_rel_pos",))
    with pytest.raises(ConfigError, match="gru_rel_pos is False; only True is supported"):
        load_encoder(file, model_class="beats")
    torch.save(encoder.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ConfigError, match="holds no cfg"):
        load_encoder(tmp_path / "plain.pt", model_class="beats")


def test_audiomaes_training_data_set_sets_its_statistics(tmp_path) -> None:
    found = encoder_class("audiomae")
    encoder = found._tiny(found.config_class(embed_dim=32, depth=1, num_heads=2, n_frames=64), seed=1)
    for arguments, said in (
        ({"dataset": "esc50"}, None),
        ({"dataset": "k400"}, "dataset is 'k400'"),
        ({"use_custom_patch": True}, "use_custom_patch is True; only False"),
    ):
        content = {"model": encoder.state_dict(), "args": argparse.Namespace(**arguments)}
        torch.save(content, tmp_path / "pretrained.pth")
        if said is not None:
            with pytest.raises(ConfigError, match=said):
                load_encoder(tmp_path / "pretrained.pth", model_class="audiomae")
        else:
            config = load_encoder(tmp_path / "pretrained.pth", model_class="audiomae").config
            assert (config.norm_mean, config.norm_std) == (-6.6268077, 5.358466)
    torch.save({"model": encoder.state_dict()}, tmp_path / "pretrained.pth")
    with pytest.raises(ConfigError, match="needs a fine-tuned checkpoint"):
        load_encoder(tmp_path / "pretrained.pth", model_class="audiomae", pooling="published")


class Payload:
    """Stands for an object that a pickle would build."""


def test_a_refused_pickle_names_its_object_in_one_whole_line(tmp_path) -> None:
    torch.save({"model": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tmp_path / "evil.pt", model_class="beats")
    said = str(caught.value)
    assert "Payload" in said and "could run code" in said and said.endswith("save model.state_dict() alone")
    assert "\x1b" not in said and "\n" not in said


def test_equal_weights_make_equal_files(tmp_path):
    tensors = {f'layer.{i}.é"weight': torch.full((3, 2), float(i)) for i in range(5)}
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:  # the library's order of four entries is one of 24 at random
        write_weights(file, tensors, {"b": "1", "a": "2"})
    assert len({file.read_bytes() for file in files}) == 1
    assert all(torch.equal(value, tensors[key]) for key, value in read_weights(files[0]).items())
