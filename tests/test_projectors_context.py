"""Clip statistics beside every frame: standardised over clips, blind to padding, at rest in eval mode."""

from types import SimpleNamespace

import pytest
import torch

from projectors import build_projector
from projectors.context import ClipContext

GRID = (6, 2)
ENCODER = SimpleNamespace(config=SimpleNamespace(dim=4, n_freq=2, frame_rate_hz=6.25))


def clips(n, steps=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, 12, 4, generator=generator) * 3 + 5
    mask = (torch.arange(6).repeat_interleave(2) < steps)[None].expand(n, -1)
    return tokens, mask


def trained():
    context = ClipContext(2, 4).train()
    for seed in range(60):
        context(*clips(16, seed=seed), GRID)
    return context


def test_statistics_are_those_of_the_valid_steps():
    context = ClipContext(2, 4).eval()  # fresh buffers: mean 0, deviation 1
    tokens, mask = clips(3, steps=4)
    rows = tokens.view(3, 6, 8)[:, :4]
    expected = torch.cat([rows.mean(1), rows.std(1, correction=0)], dim=1)
    torch.testing.assert_close(context(tokens, mask, GRID), expected, atol=1e-4, rtol=1e-4)


def test_training_standardises_over_clips_and_eval_keeps_what_it_learnt():
    context = trained().eval()
    before = context.running_mean.clone()
    out = context(*clips(400, seed=99), GRID)
    assert out.mean(0).abs().max() < 0.4 and (out.std(0) - 1).abs().max() < 0.4
    assert torch.equal(context.running_mean, before)
    tokens, mask = clips(400, seed=99)
    torch.testing.assert_close(context(tokens[:1], mask[:1], GRID), out[:1])


def test_a_clip_is_standardised_alike_in_training_and_evaluation_whatever_the_batch():
    tokens, mask = clips(16, seed=99)
    context = trained()
    learning = context(tokens, mask, GRID)
    torch.testing.assert_close(context.eval()(tokens, mask, GRID), learning)
    torch.testing.assert_close(context(tokens[:2], mask[:2], GRID), learning[:2])


def test_one_clip_at_a_time_teaches_the_same_as_all_at_once():
    tokens, mask = clips(50)
    single, together = ClipContext(2, 4).train(), ClipContext(2, 4).train()
    for row in range(50):
        single(tokens[row : row + 1], mask[row : row + 1], GRID)
    together(tokens, mask, GRID)
    torch.testing.assert_close(single.running_mean, together.running_mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(single.running_var, together.running_var, atol=1e-4, rtol=1e-4)


def test_statistics_stay_in_float32_in_a_bfloat16_model():
    tokens, mask = clips(64)
    tokens = 100 + tokens / 100  # a mean that bfloat16 cannot tell from its neighbours
    context = torch.nn.Sequential(ClipContext(2, 4)).bfloat16()[0].train()
    for _ in range(20):
        context(tokens, mask, GRID)
    assert context.running_mean.dtype == torch.float32
    out = context.eval()(tokens, mask, GRID)[:, :8]
    assert out.mean(0).abs().max() < 0.1 and (out.std(0) - 1).abs().max() < 0.1


def test_a_single_clip_trains():
    context = trained()
    out = context(*clips(1), GRID)
    assert out.isfinite().all() and out.abs().max() > 0


@pytest.mark.parametrize("steps", [6, 3, 1])
def test_mlp_with_context_does_not_hear_padding(steps):
    torch.manual_seed(0)
    projector = build_projector("mlp", ENCODER, 8, stack=2, context=True)
    projector.context.load_state_dict(trained().state_dict())
    projector.eval()
    tokens, mask = clips(2, steps=steps)
    out, valid = projector(tokens, mask, GRID)
    assert valid.sum(1).tolist() == [projector.config.n_tokens_for(steps)] * 2
    other = projector(tokens.masked_fill(~mask[..., None], 77.0), mask, GRID)[0]
    torch.testing.assert_close(out[valid], other[valid])
    cut, cut_valid = projector(tokens[:, : steps * 2], mask[:, : steps * 2], (steps, 2))
    torch.testing.assert_close(out[valid], cut[cut_valid], atol=1e-5, rtol=1e-5)


def test_context_reaches_every_frame_and_stays_out_where_it_is_not_asked_for():
    for context in (True, False):
        torch.manual_seed(0)
        projector = build_projector("mlp", ENCODER, 8, stack=2, context=context).eval()
        tokens, mask = clips(1)
        changed = tokens.clone()
        changed[:, :2] += torch.arange(4.0)  # the first time step
        moved = (projector(tokens, mask, GRID)[0] - projector(changed, mask, GRID)[0]).abs().sum(-1)[0] > 1e-6
        assert moved.tolist() == ([True] * 3 if context else [True, False, False])


def test_half_precision_engines_convert_it_whole():
    projector = build_projector("mlp", ENCODER, 8, context=True).to(torch.bfloat16)
    tokens, mask = clips(3)
    assert projector(tokens.bfloat16(), mask, GRID)[0].dtype == torch.bfloat16
