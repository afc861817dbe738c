"""Small parts of front ends and projectors, checked by numbers: each test fails on one changed line."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from encoders import encoder_class
from encoders.vit import DropPath, sincos_positions
from encoders.zoo.audiomae import AudioMaeConfig, AudioMaeEncoder
from encoders.zoo.audiomosaic import model as audiomosaic
from encoders.zoo.beats import BeatsConfig, BeatsLayer
from encoders.zoo.eat import EatEncoder
from encoders.zoo.labels import LabelsConfig, LabelsEncoder, clip_key
from projectors.base import stack_time, time_positions
from projectors.registry import PROJECTORS


@torch.no_grad()
def test_padding_of_a_stacked_token_is_zero_whatever_it_held() -> None:
    tokens = torch.ones(1, 6, 2)  # three time steps of two bands
    mask = torch.tensor([[True, True, True, True, False, False]])
    tokens[0, 4:] = 7.0
    stacked, valid = stack_time(tokens, mask, (3, 2), stack=2)
    assert torch.equal(stacked[0, 0], torch.ones(8)) and not stacked[0, 1].any()
    assert valid.tolist() == [[True, False]]
    mask[0, 2:] = False  # one valid step of a stacked pair
    stacked, valid = stack_time(tokens, mask, (3, 2), stack=2)
    assert stacked[0, 0].tolist() == [1.0] * 4 + [0.0] * 4 and valid.tolist() == [[True, False]]


def test_time_positions_are_vaswanis() -> None:
    table = time_positions(5, 6, "cpu")
    for step in range(5):
        for pair in range(3):
            angle = step / 10000 ** (2 * pair / 6)
            assert abs(table[step, 2 * pair].item() - math.sin(angle)) < 1e-5
            assert abs(table[step, 2 * pair + 1].item() - math.cos(angle)) < 1e-5


@torch.no_grad()
def test_a_waveform_with_an_offset_is_normalised_over_its_own_samples() -> None:
    encoder = encoder_class("hubert").tiny()  # its windows are padded in a batch
    assert encoder.pads
    seen = []
    encoder.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    waves = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) + 0.3
    encoder(waves, torch.tensor([8000, 5000]))
    short = waves[1, :5000]
    wanted = (short - short.mean()) / (short.var(correction=0) + 1e-7).sqrt()
    assert torch.allclose(seen[0][1, :5000], wanted, atol=1e-5) and not seen[0][1, 5000:].any()


@torch.no_grad()
def test_a_loud_clip_beside_a_quiet_one_does_not_raise_its_floor() -> None:
    for name in ("whisper", "qwen2_audio", "dasheng"):
        encoder, level = encoder_class(name).tiny(), 1e-5
        if name == "dasheng":  # its BatchNorm would hide a floor that is 120 dB below the loudest band
            encoder.init_bn[1].running_var.fill_(100.0)
            level = 1e-7
        quiet = level * torch.randn(16000, generator=torch.Generator().manual_seed(0))
        loud = torch.randn(16000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
        lengths = torch.tensor([16000, 16000])
        alone = encoder(quiet[None], lengths[:1]).tokens[0]
        beside = encoder(torch.stack([quiet, loud]), lengths).tokens[0]
        assert torch.allclose(alone, beside, atol=1e-4), name


def test_a_query_window_is_rounded_to_the_nearest_time_step() -> None:
    config = PROJECTORS.get("window_qformer").config_class(
        encoder_dim=8, n_freq=1, frame_rate_hz=6.25, llm_dim=8, window_s=0.3
    )
    assert config.window == 2 and config.n_tokens_for(5) == 3  # 0.3 s are 1.875 steps


def test_two_sounds_at_once_are_the_sum_of_their_vectors() -> None:
    oracle = LabelsEncoder(LabelsConfig(embed_dim=8, step_s=0.1, unknown="nothing"))
    clip = np.random.default_rng(0).uniform(-1, 1, 4800).astype(np.float32)
    oracle.table = {clip_key(clip): [(0.0, 0.2, "dog"), (0.1, 0.3, "bell")]}
    first, both, last = oracle(torch.from_numpy(clip)[None], torch.tensor([4800])).tokens[0]
    torch.testing.assert_close(both, first + last)
    # Beyond full scale, the waveform is clipped as in a 16-bit file.
    assert clip_key(np.array([1.5, -2.0, 0.5])) == clip_key(np.array([1.0, -1.0, 0.5]))


def test_dropped_paths_leave_the_mean_as_it_was() -> None:
    torch.manual_seed(0)
    kept = DropPath(0.2).train()(torch.ones(20000, 1, 1)).flatten()
    assert set(kept.unique().tolist()) == {0.0, 1.25} and kept.mean() == pytest.approx(1.0, abs=0.01)


def test_positions_on_the_grid_are_those_of_mae() -> None:
    """Frequency in the first half, time in the second; omega runs over a quarter of the width."""
    table = sincos_positions(8, (3, 2))[0]
    assert not table[0].any()
    for time in range(3):
        for freq in range(2):
            wanted = [
                f(place / 10000 ** (k / 2))
                for place in (freq, time)
                for f in (math.sin, math.cos)
                for k in (0, 1)
            ]
            assert table[1 + 2 * time + freq].tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_share_of_the_blocks_that_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_class("audiomosaic")
    config = encoder.tiny().config.replace(depth=4)
    calls: list[Any] = []
    monkeypatch.setattr(audiomosaic, "checkpoint", lambda block, x, **_: calls.append(block) or block(x))
    for fraction, training, wanted in ((0.5, True, 2), (1.0, True, 4), (0.0, True, 0), (1.0, False, 0)):
        model = encoder(config).train(training)
        model.checkpoint_fraction = fraction
        calls.clear()
        model.forward_mel(torch.zeros(1, *config.spec_size))
        assert calls == list(model.blocks)[:wanted]


@torch.no_grad()
def test_a_window_weighs_as_much_as_it_holds_audio() -> None:
    encoder = encoder_class("audiomosaic").tiny()
    tokens = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))  # of three windows
    found = encoder.pool_windows(tokens, torch.tensor([[64, 16], [8, 0]]))
    pooled = encoder.pool(tokens)
    torch.testing.assert_close(found, torch.stack([0.8 * pooled[0] + 0.2 * pooled[1], pooled[2]]))


@torch.no_grad()
def test_ast_without_normalisation_and_its_last_step() -> None:
    """Without it, a mean of 0 and twice a deviation of 0.5; a frame more than a patch is a step more."""
    kind, wave = encoder_class("ast"), 0.1 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    made = []
    for changes in ({"do_normalize": False}, {"norm_mean": 0.0, "norm_std": 0.5}, {}):
        encoder = kind(kind.tiny().config.replace(**changes))
        encoder.load_state_dict(kind.tiny().state_dict())
        made.append(encoder.eval()(wave, torch.tensor([9000])).tokens)
    torch.testing.assert_close(made[0], made[1])
    assert not torch.allclose(made[0], made[2])
    patch, shift = kind.tiny().config.hf.patch_size, 160
    samples = [400 + (frames - 1) * shift for frames in (patch, patch + 1, patch + 10, patch + 11)]
    assert [kind.tiny().config.n_time_for(n) for n in samples] == [1, 2, 2, 3]


def test_clap_fills_a_window_as_its_config_says() -> None:
    kind, piece = encoder_class("clap"), torch.arange(1.0, 12001)
    window, filled = kind.tiny().config.window_samples, {}
    assert window == 32000
    for padding in ("repeat", "repeatpad", "pad"):
        filled[padding] = kind(kind.tiny().config.replace(padding=padding))._fill(piece)
    assert torch.equal(filled["repeat"], torch.cat([piece, piece, piece[:8000]]))
    assert torch.equal(filled["repeatpad"], torch.cat([piece, piece, torch.zeros(8000)]))
    assert torch.equal(filled["pad"], torch.cat([piece, torch.zeros(20000)]))
    config = kind.tiny().config
    step = window // config.steps_per_window
    assert [config.n_time_for(n) for n in (step, step + 1, 2 * step)] == [1, 2, 2]


def test_official_weights_say_what_the_encoder_is_built_of() -> None:
    """A fine-tuned AudioMAE has no last norm; EAT's config says its heads; BEATs may go without deep norm."""
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "n_frames": 64, "patch_size": 16}
    for norm in (True, False):
        weights = AudioMaeEncoder(AudioMaeConfig(final_norm=norm, **sizes)).state_dict()
        assert AudioMaeEncoder.translate(weights, {}, {})[1]["final_norm"] is norm
    eat = EatEncoder.tiny().state_dict()
    stated = {"num_heads": 4, "mel_bins": 32, "img_size": (64, 32)}
    assert EatEncoder.translate(eat, {}, stated)[1]["num_heads"] == 4
    tiny = encoder_class("beats").tiny().config
    assert BeatsLayer(tiny, True).alpha == pytest.approx((2 * tiny.depth) ** 0.25)
    plain: BeatsConfig = tiny.replace(deep_norm=False)
    assert BeatsLayer(plain, True).alpha == 1.0
