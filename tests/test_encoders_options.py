"""Every option of an encoder and of a projector does what it says, and changes nothing else.

`EFFECTS` holds, for each option, another value and what may differ then:
    weights: names, shapes or dtypes of the state dict; start: initial values of weights of the same shapes;
    trainable: which of them train; time: time steps, their rate or the length of a window;
    tokens: the tokens of the same weights; feature: the clip's feature; training: tokens in training mode, seeded;
    logits: class logits; nothing: values of release files that are kept and not used.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from encoders import encoder_class, list_encoders
from projectors import build_projector, list_projectors
from projectors.base import ProjectorConfig
from projectors.registry import PROJECTORS

CLIPS = [17000, 9000]


def _waves() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    steps = torch.arange(CLIPS[0]) / 16000
    tones = torch.stack([(2 * torch.pi * hz * steps * (1 + steps)).sin() for hz in (300.0, 900.0)])
    waves = 0.2 * tones + 0.02 * torch.randn(2, CLIPS[0], generator=generator)
    waves[1, CLIPS[1] :] = 0.0
    return waves, torch.tensor(CLIPS)


def _built(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def _facts(encoder: Any) -> dict[str, Any]:
    """What an encoder computes, by the names of `EFFECTS`."""
    config = encoder.config
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        out = encoder(*_waves())
        torch.manual_seed(5)
        training = encoder.train()(*_waves()).tokens - out.tokens
        encoder.eval()
        facts: dict[str, Any] = {
            "time": (
                config.frame_rate_hz,
                config.clip_s,
                [config.n_time_for(n) for n in (8000, 17000, 40000)],
            ),
            "tokens": (out.tokens, out.grid, out.mask),
            "feature": out.clip_features(),
            "training": training if training.any() else 0.0,
        }
        if getattr(config, "has_classes", False):
            torch.manual_seed(5)
            facts["logits"] = encoder.train().logits(torch.ones(2, *config.spec_size))
            encoder.eval()
    facts["trainable"] = sorted(name for name, one in encoder.named_parameters() if one.requires_grad)
    facts["weights"] = {key: (tuple(v.shape), v.dtype) for key, v in encoder.state_dict().items()}
    return facts


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _effects(kind: Any, before: Any, after: Any) -> set[str]:
    one, other = _built(kind, before), _built(kind, after)
    first, second = one.state_dict(), other.state_dict()
    found = set()
    if {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}:
        if not all(torch.equal(first[key], second[key]) for key in first):
            found.add("start")
        other.load_state_dict(first)
    facts, changed = _facts(one), _facts(other)
    return found | {key for key in {*facts, *changed} if not _same(facts.get(key), changed.get(key))}


_SIZES = {"embed_dim": (64, "weights"), "depth": (3, "weights"), "mlp_ratio": (2.0, "weights")}
_WINDOW = {"window_s": (0.25, "time tokens feature training")}
_STATISTICS = {"norm_mean": (-3.0, "tokens feature"), "norm_std": (3.0, "tokens feature")}
EFFECTS: dict[str, dict[str, tuple[Any, str]]] = {
    "ast": {
        option: (value, "tokens feature training")
        for option, value in {"do_normalize": False, "norm_mean": -3.0, "norm_std": 3.0}.items()
    },
    "audiomae": _SIZES | _STATISTICS | {
        "num_heads": (4, "tokens feature"), "n_frames": (128, "weights time"), "n_mels": (40, "weights"),
        "patch_size": (16, "weights time"), "final_norm": (False, "weights"),
    },
    "audiomosaic": _SIZES | {
        "num_heads": (4, "tokens feature training"), "spec_size": ((128, 32), "weights time"),
        "patch_size": ((16, 16), "weights time"), "model_class": ("AudioMosaicEncoder", "weights"),
        "qkv_bias": (False, "weights"), "qk_norm": (True, "weights"), "proj_bias": (False, "weights"),
        "pre_norm": (False, "weights"), "norm_layer_type": ("rmsnorm", "weights"),
        "act_type": ("silu", "tokens feature training"), "pos_trainable": (False, "trainable"),
        "pooling": ("cls", "feature"), "use_fc_norm": (False, "weights"), "project_embedding_dim": (8, "weights"),
        "attn_drop_rate": (0.5, "training"), "drop_path_rate": (0.5, "training"), "learnable_tau": (True, "weights"),
        "learnable_bias": (True, "weights"), "freeze_patch_embed": (True, "trainable"),
        "use_checkpoint": (True, ""), "normalisation": ("esc50", "tokens feature training"),
        "frame_shift": (20.0, "time tokens feature training"), "mask_ratio": (0.5, ""),
        "mask_ratio_time": (0.5, ""), "mask_ratio_freq": (0.5, ""), "debug": (True, ""),
        # options of other model classes
        "num_classes": (5, ""), "classifier_drop_out": (0.5, ""), "probe_layer": (0, ""), "num_attn_heads": (2, ""),
        "logit_scale_init": (0.1, ""), "checkpointing_fraction": (0.5, ""),
    },
    "beats": _SIZES | {
        "num_heads": (4, "weights"), "n_frames": (128, "time tokens feature"), "n_mels": (40, "tokens feature"),
        "patch_size": (16, "weights time"), "patch_dim": (8, "weights"), "conv_bias": (True, "weights"),
        "conv_pos": (4, "weights"), "conv_pos_groups": (2, "weights"), "num_buckets": (16, "weights"),
        "max_distance": (16, "tokens feature"), "deep_norm": (False, "tokens feature"),
    },
    "clap": {
        option: (value, "tokens feature training")
        for option, value in {
            "n_fft": 1024, "frame_shift_samples": 320, "min_hz": 200.0, "max_hz": 6000.0, "truncation": "fusion",
            "padding": "repeat",
        }.items()
    } | {"window_s": (1, "time tokens feature training")},
    "dasheng": _SIZES | {
        "num_heads": (4, "tokens feature"), "target_length": (40, "weights time"), "n_mels": (24, "weights"),
        "patch_frames": (8, "weights time"),
    },
    "data2vec": _WINDOW | {"do_normalize": (False, "tokens feature training")},
    "eat": _SIZES | {
        "num_heads": (4, "tokens feature"), "n_frames": (128, "time tokens feature"), "n_mels": (40, "weights"),
        "patch_size": (16, "weights time"), "max_steps": (32, "weights"), "pooling": ("cls", "feature"),
    },
    "fusion": {},  # its parts have the options
    "hubert": _WINDOW | {"do_normalize": (False, "tokens feature training")},
    "labels": {"embed_dim": (8, "tokens feature"), "step_s": (0.1, "time tokens")},
    "layers": {"layer": ("1", "weights")},
    "logmel": {"n_mels": (64, "tokens feature"), "patch_size": ((16, 16), "time tokens feature")},
    "qwen2_audio": {},
    "random": {"seed": (1, "start")},
    "wav2vec2": _WINDOW | {"do_normalize": (False, "tokens feature training")},
    "wavlm": _WINDOW | {"do_normalize": (True, "tokens feature training")},
    "whisper": {"window_s": (0.5, "weights time"), "min_clip_s": (0.9, "time tokens feature training")},
}  # fmt: skip
# What is fixed or needs files of its own, and tests of its own.
ELSEWHERE = {
    "pooling",
    "model_class", "sample_rate", "transformers", "parts", "fusion", "encoder", "table", "unknown", "in_chans",
    "drop_rate", "fusion_drop_rate", "online_classifier", "norm_mean", "norm_std",
}  # fmt: skip


def _assert_effects(found: set[str], stated: str) -> None:
    wanted = set(stated.split())
    if "weights" in wanted:  # other weights give other numbers
        found -= {"tokens", "feature", "training", "logits", "trainable", "start"}
    assert found == wanted


@pytest.mark.parametrize("name", list_encoders())
def test_every_option_of_an_encoder_has_its_effect_and_no_other(name: str) -> None:
    kind = encoder_class(name)
    config, effects = kind.tiny().config, EFFECTS.get(name, {})
    if name in EFFECTS and name != "random":  # AudioMosaic's options are tested there
        assert {field.name for field in dataclasses.fields(config)} <= {*effects, *ELSEWHERE}
    for option, (value, stated) in effects.items():
        found = _effects(kind, config, config.replace(**{option: value}))
        try:
            _assert_effects(found, stated)
        except AssertionError as error:
            raise AssertionError(f"{name}: {option}={value} changes {sorted(found)}, not {stated}") from error


@pytest.mark.parametrize(
    ("of", "changes", "stated"),
    [
        ({"learnable_tau": True}, {"logit_scale_init": 0.1}, "start"),
        ({"model_class": "AudioMosaicClassifier"}, {"num_classes": 5}, "weights"),
        ({"model_class": "AudioMosaicClassifier"}, {"classifier_drop_out": 0.5}, "logits"),
        ({"model_class": "AudioMosaicClassifier"}, {"pooling": "cls"}, "logits feature"),
        ({"model_class": "AudioMosaicClassifier"}, {"pooling": "fusion"}, "weights"),
        ({"model_class": "AudioMosaicLayerProbe"}, {"probe_layer": 0}, "logits"),
        ({"model_class": "AudioMosaicLayerProbe"}, {"classifier_drop_out": 0.5}, "logits"),
        ({"model_class": "AudioMosaicAttentiveProbe"}, {"num_attn_heads": 2}, "weights"),
        ({"model_class": "AudioMosaicWeightedSumProbe"}, {"num_classes": 5}, "weights"),
        ({"model_class": "AudioMosaicWeightedSumProbe"}, {"use_fc_norm": False}, ""),
    ],
)
def test_options_of_audiomosaics_heads(of: dict[str, Any], changes: dict[str, Any], stated: str) -> None:
    kind = encoder_class("audiomosaic")
    config = kind.tiny().config.replace(probe_layer=1, num_classes=6, **of)
    _assert_effects(_effects(kind, config, config.replace(**changes)), stated)


def test_the_learnt_temperature_starts_at_its_inverse() -> None:
    kind = encoder_class("audiomosaic")
    heads = kind.tiny().config.replace(learnable_tau=True, learnable_bias=True, logit_scale_init=0.1)
    encoder = kind(heads)
    assert encoder.logit_scale.exp().item() == pytest.approx(10.0) and encoder.logit_bias.item() == 0.0


# (options to start from, option, other value, what may differ): "rate" is the number of tokens
PROJECTORS_EFFECTS = [
    ("conv1d", {"stride": 2}, "stride", 3, "weights rate"), ("conv1d", {"stride": 2}, "kernel", 4, "weights"),
    ("conv1d", {"stride": 2}, "hidden", 6, "weights"), ("linear", {}, "stack", 2, "weights rate"),
    ("ltu", {}, "stride", 3, "rate tokens training"), ("ltu", {}, "variant", "official", "tokens training"),
    ("ltu", {}, "token_norm", False, "weights"), ("mlp", {}, "stack", 2, "weights rate"),
    ("mlp", {}, "hidden", 6, "weights"), ("mlp", {}, "context", True, "weights"),
    ("mlp", {}, "dropout", 0.5, "training"), ("pool", {}, "stride", 3, "rate tokens training"),
    ("qformer", {}, "n_queries", 3, "weights rate"), ("qformer", {}, "hidden", 4, "weights"),
    ("qformer", {}, "depth", 1, "weights"), ("qformer", {}, "heads", 2, "tokens training"),
    ("ultravox", {"stack": 2}, "stack", 3, "weights rate"), ("ultravox", {"stack": 2}, "hidden", 6, "weights"),
    ("ultravox", {"stack": 2}, "ln_mid", False, "weights"),
    ("window_qformer", {}, "n_queries", 2, "weights rate"), ("window_qformer", {}, "hidden", 4, "weights"),
    ("window_qformer", {}, "depth", 1, "weights"), ("window_qformer", {}, "heads", 2, "tokens training"),
    ("window_qformer", {}, "window_s", 0.6, "rate tokens training"),
]  # fmt: skip


def _projector_facts(projector: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 28, 8, generator=generator)
    mask = torch.ones(1, 28, dtype=torch.bool)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        out = projector.eval()(tokens, mask, (7, 4))[0]
        torch.manual_seed(5)
        training = projector.train()(tokens, mask, (7, 4))[0]
    config = projector.config
    return {
        "tokens": out,
        "training": training,
        "rate": (config.tokens_per_second, [config.n_tokens_for(n) for n in range(9)]),
        "weights": {key: tuple(value.shape) for key, value in projector.state_dict().items()},
    }


def test_every_option_of_a_projector_has_its_effect_and_no_other() -> None:
    sizes = {field.name for field in dataclasses.fields(ProjectorConfig)}
    listed: dict[str, set[str]] = {}
    encoder = SimpleNamespace(config=SimpleNamespace(dim=8, n_freq=4, frame_rate_hz=6.25))
    for name, of, option, value, stated in PROJECTORS_EFFECTS:
        listed.setdefault(name, set()).add(option)
        with torch.random.fork_rng(devices=[]):
            one, other = (build_projector(name, encoder, 12, **each) for each in (of, {**of, option: value}))
        weights, others = one.state_dict(), other.state_dict()
        if {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in others.items()}:
            other.load_state_dict(weights)
        facts, changed = _projector_facts(one), _projector_facts(other)
        found = {key for key in facts if not _same(facts[key], changed[key])}
        if found & {"weights", "rate"} and "weights" in stated:
            found -= {"tokens", "training"}
        assert found == set(stated.split()), (name, option, found)
    for name, options in listed.items():
        own = {field.name for field in dataclasses.fields(PROJECTORS.get(name).config_class)}
        assert options == own - sizes, name
    assert {*listed} <= {*list_projectors()}
