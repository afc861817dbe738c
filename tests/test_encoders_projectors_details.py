"""Small parts of front ends and projectors, checked by numbers: each test fails on one changed line."""

import math

import torch

from encoders import encoder_class
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
        if name == "dasheng":  # its BatchNorm would hide a floor, which is 120 dB below the loudest band
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
