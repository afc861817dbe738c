"""Directories in the published layout, run directories, hub caches, probes, and the normalisation they carry."""

import argparse
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alm.common.errors import CheckpointError, ConfigError
from encoders import AudioMosaicEncoder, load_encoder
from encoders.checkpoint import read_weights
from encoders.zoo.audiomosaic.config import CLASSIFIER, LAYER, PRETRAIN, PROBES, AudioMosaicConfig
from train.pretrain.contrastive import ContrastiveModel
from train.pretrain.losses.nt_xent import NTXent
from train.settings.pretrain import ContrastiveSettings

# Named parameters of the official constructors; each also swallows further keywords.
_OFFICIAL = set(
    "spec_size patch_size in_chans embed_dim depth num_heads mlp_ratio qkv_bias qk_norm proj_bias pre_norm drop_rate "
    "attn_drop_rate drop_path_rate use_checkpoint norm_layer_type act_type pos_trainable checkpointing_fraction "
    "freeze_patch_embed num_classes pooling".split()
)
_OFFICIAL_OWN = {
    PRETRAIN: set(
        "mask_ratio mask_ratio_time mask_ratio_freq logit_scale_init learnable_tau learnable_bias online_classifier "
        "project_embedding_dim use_fc_norm".split()
    ),
    CLASSIFIER: {"classifier_drop_out", "fusion_drop_rate"},
    "AudioMosaicLayerProbe": {"probe_layer"},
    "AudioMosaicWeightedSumProbe": set(),
    "AudioMosaicAttentiveProbe": {"num_attn_heads"},
}
# The official `preprocess(audio, **audio_preprocessing)` takes exactly these.
_PREPROCESSING = {
    "sample_rate",
    "target_length",
    "num_mel_bins",
    "norm_mean",
    "norm_std",
    "frame_shift",
}


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "run" / "encoder")
    return tmp_path / "run" / "encoder"


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    mine, other = first.state_dict(), second.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize("model_class", _OFFICIAL_OWN)
def test_config_json_is_what_the_official_loader_reads(tmp_path: Path, model_class: str) -> None:
    config = AudioMosaicEncoder.tiny().config.replace(model_class=model_class, probe_layer=1, num_classes=7)
    AudioMosaicEncoder(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_class"] == model_class
    assert _OFFICIAL | _OFFICIAL_OWN[model_class] <= values.keys()
    assert values["audio_preprocessing"].keys() == _PREPROCESSING
    assert load_encoder(tmp_path).config == config


@pytest.mark.parametrize("kind", ["release", "classifier_release"])
def test_saved_again_a_release_keeps_its_keys(shared_dir: Path, tmp_path: Path, kind: str) -> None:
    release = shared_dir / "golden" / f"audiomosaic_tiny_{kind}"
    load_encoder(release).save_pretrained(tmp_path)
    before, after = load_file(release / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.shape == after[key].shape and torch.equal(value, after[key])
    values = json.loads((tmp_path / "config.json").read_text())
    for key, value in json.loads((release / "config.json").read_text()).items():
        assert values[key] == value


def test_rms_norm_leaves_the_pooled_norm_a_layer_norm() -> None:
    config = AudioMosaicEncoder.tiny().config.replace(norm_layer_type="rmsnorm", qk_norm=True)
    classifier = AudioMosaicEncoder(config.replace(model_class=CLASSIFIER))
    assert {"fc_norm.weight", "fc_norm.bias"} <= classifier.state_dict().keys()
    names = AudioMosaicEncoder(config).state_dict().keys()
    assert {"fc_norm.weight", "blocks.0.attn.q_norm.weight", "norm_pre.weight"} <= names
    assert not {"fc_norm.bias", "blocks.0.attn.q_norm.bias", "norm_pre.bias"} & names


def test_silent_keys_follow_each_official_constructor() -> None:
    silent = {c: AudioMosaicConfig.from_release({"model_class": c, "depth": 12}, "x") for c in _OFFICIAL_OWN}
    assert silent[CLASSIFIER].num_classes == 2 and silent[PRETRAIN].num_classes == 527
    assert silent[CLASSIFIER].pooling == "cls"
    assert {(silent[p].pooling, silent[p].num_classes) for p in PROBES} == {("avg", 527)}


@pytest.mark.parametrize("model_class", PROBES)
def test_probes_compute_the_official_forward(saved: Path, tmp_path: Path, model_class: str) -> None:
    """Against a direct transcription of what each probe does with the outputs of all blocks."""
    options = {"probe_layer": 0, "num_attn_heads": 4, "num_classes": 5}
    probe = load_encoder(saved, model_class=model_class, **options)
    assert {k.split(".")[0] for k in probe.load_report.unexpected} == {"projector"}
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("layer_weights", "attn_query", "head.weight"):
            if name in dict(probe.named_parameters()):
                probe.get_parameter(name).normal_()
    probe.save_pretrained(tmp_path / "probe")
    assert same_weights(probe, load_encoder(tmp_path / "probe"))
    mel = torch.randn(3, 64, 32)
    outputs: list[torch.Tensor] = []
    for block in probe.blocks:
        block.register_forward_hook(lambda module, args, out: outputs.append(out))
    with torch.no_grad():
        got = probe.logits(mel)
        outputs.append(outputs[-1])  # the final norm is Identity
        if model_class == LAYER:
            feature = outputs[0].mean(1)
        elif model_class == "AudioMosaicWeightedSumProbe":
            weights = probe.layer_weights.softmax(0)
            feature = (torch.stack(outputs) * weights[:, None, None, None]).sum(0).mean(1)
        else:
            pooled = torch.stack(
                [norm(x).mean(1) for norm, x in zip(probe.layer_norms, outputs, strict=True)], 1
            )
            key = probe.attn_key(pooled).view(3, 3, 4, 8).transpose(1, 2)
            value = probe.attn_value(pooled).view(3, 3, 4, 8).transpose(1, 2)
            attention = (probe.attn_query @ key.transpose(-2, -1) * 8**-0.5).softmax(-1)
            feature = (attention @ value).squeeze(2).reshape(3, -1)
        wanted = probe.head(probe.fc_norm(feature))
    assert got.shape == (3, 5) and torch.allclose(got, wanted, atol=1e-5)


def test_logits_of_the_classifier(saved: Path) -> None:
    classifier = load_encoder(saved, model_class=CLASSIFIER, num_classes=5)
    mel = torch.randn(2, 64, 32)
    with torch.no_grad():
        pooled = classifier.pool(classifier.forward_mel(mel))
        assert torch.equal(classifier.logits(mel), classifier.classify(pooled))
    with pytest.raises(ConfigError, match="no classifier"):
        load_encoder(saved).logits(mel)


def test_another_number_of_classes_gets_a_fresh_head(saved: Path, tmp_path: Path) -> None:
    load_encoder(saved, model_class=CLASSIFIER, num_classes=5).save_pretrained(tmp_path / "five")
    kept, fresh = load_encoder(tmp_path / "five"), load_encoder(tmp_path / "five", num_classes=3)
    assert fresh.head.weight.shape == (3, 32)
    assert set(fresh.load_report.missing) == set(fresh.load_report.unexpected) == {"head.weight", "head.bias"}
    assert torch.equal(kept.fc_norm.weight, fresh.fc_norm.weight)
    probe = load_encoder(tmp_path / "five", model_class=LAYER, probe_layer=1)  # its head is another one, too
    assert "head.weight" in probe.load_report.missing and not torch.equal(probe.head.weight, kept.head.weight)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_class": LAYER, "depth": 2, "probe_layer": 2},
            "probe_layer is 2; expected a block from 0 to 1",
        ),
        ({"num_attn_heads": 5}, "num_attn_heads is 5; expected a divisor of embed_dim"),
        ({"fusion_drop_rate": 0.5}, "fusion_drop_rate is 0.5; expected 0"),
    ],
)
def test_bad_probe_config(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioMosaicConfig.from_dict(values)


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "module._orig_mod.", "module.module.", "_orig_mod.module.", "encoder."],
)
@pytest.mark.parametrize("nesting", [(), ("model",), ("state_dict",), ("module",), ("model", "state_dict")])
def test_training_scripts_weights(saved: Path, tmp_path: Path, prefix: str, nesting: tuple) -> None:
    encoder = load_encoder(saved)
    content: dict = {prefix + key: value for key, value in encoder.state_dict().items()}
    for key in reversed(nesting):
        content = {key: content, "epoch": 3, "args": argparse.Namespace(lr=6e-4, out="runs")}
    torch.save(content, tmp_path / "checkpoint_last.pt")
    loaded = load_encoder(tmp_path / "checkpoint_last.pt", config=saved)
    assert same_weights(encoder, loaded) and not loaded.load_report.unexpected


def test_compiled_and_wrapped_parts(saved: Path, tmp_path: Path) -> None:
    encoder = load_encoder(saved)
    names = {
        key: key.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module._orig_mod.")
        for key in encoder.state_dict()
    }
    torch.save({names[key]: value for key, value in encoder.state_dict().items()}, saved.parent / "last.pt")
    assert same_weights(encoder, load_encoder(saved.parent / "last.pt", config=saved))
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "twice.pt")
    with pytest.raises(CheckpointError, match="some weights are there twice"):
        read_weights(tmp_path / "twice.pt")


def test_run_directory_stands_for_its_encoder(saved: Path) -> None:
    assert same_weights(load_encoder(saved), load_encoder(saved.parent))
    assert same_weights(load_encoder(saved), AudioMosaicEncoder.from_pretrained(saved.parent))


def test_trainer_checkpoint(saved: Path, tmp_path: Path) -> None:
    """What the pretraining stage's trainer leaves in checkpoint-N: the encoder inside the stage's model."""
    encoder = load_encoder(saved)
    folder = tmp_path / "run" / "checkpoint-7"
    folder.mkdir()
    save_file(
        ContrastiveModel(encoder, NTXent(), ContrastiveSettings()).state_dict(), folder / "model.safetensors"
    )
    assert same_weights(encoder, load_encoder(folder, config=saved))
    with pytest.raises(ConfigError, match="config.json: no such file"):
        load_encoder(folder)


def test_hub_id_from_the_local_cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id resolves through huggingface_hub itself, offline, from its cache's layout."""
    commits = {"main": "a" * 40, "v1": "b" * 40}
    repository = tmp_path / "hub" / "models--organisation--encoder"
    (repository / "refs").mkdir(parents=True)
    for name, commit in commits.items():
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(saved, repository / "snapshots" / commit)
    AudioMosaicEncoder.tiny(seed=1).save_pretrained(repository / "snapshots" / commits["v1"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert same_weights(load_encoder("organisation/encoder"), load_encoder(saved))
    older = AudioMosaicEncoder.from_pretrained("organisation/encoder", revision="v1")
    assert same_weights(older, AudioMosaicEncoder.tiny(seed=1))
    with pytest.raises(CheckpointError, match="could not be downloaded from the Hub"):
        load_encoder("organisation/encoder", revision="v2")


def test_another_normalisation_is_warned_about(saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(saved)
        load_encoder(saved, normalisation="audioset_train", spec_size=(128, 32))
        same = load_encoder(saved, norm_mean=-4.2677393, norm_std=4.5689974)  # the same numbers by hand
    assert same.config.normalisation == "custom"
    with pytest.warns(UserWarning, match=r"trained with normalisation audioset_train \(.*used with ltu"):
        ltu = load_encoder(saved, normalisation="ltu")
    with pytest.warns(UserWarning, match="used with custom"):
        load_encoder(saved, norm_mean=-3.0, norm_std=2.0)
    ltu.save_pretrained(saved)
    assert load_encoder(saved).config.normalisation == "ltu"  # stored with the artifact
    with pytest.warns(UserWarning, match="trained with normalisation ltu .*used with release_card"):
        load_encoder(saved, normalisation="release_card")
    first, second = torch.zeros(1, 64, 32), load_encoder(saved).normalise(torch.zeros(1, 64, 32))
    assert second[0, 0, 0].item() == pytest.approx(5.081 / 4.4849) and not torch.equal(first, second)
