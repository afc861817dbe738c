"""Every registered projector keeps the contract: declared lengths, padding invariance, time order."""

from types import SimpleNamespace

import pytest
import torch

from projectors import (
    ProjectorError,
    build_projector,
    list_projectors,
    projector_config,
    projector_from_config,
)
from projectors.base import stack_time

N_TIME, N_FREQ, DIM, LLM_DIM = 7, 4, 8, 12
ENCODER = SimpleNamespace(config=SimpleNamespace(dim=DIM, n_freq=N_FREQ, frame_rate_hz=6.25))


def make(name, **options):
    torch.manual_seed(0)
    return build_projector(name, ENCODER, LLM_DIM, **options).eval()


def batch(valid_steps, n_time=N_TIME):
    torch.manual_seed(1)
    tokens = torch.randn(len(valid_steps), n_time * N_FREQ, DIM)
    steps = torch.arange(n_time).repeat_interleave(N_FREQ)
    mask = steps[None] < torch.tensor(valid_steps)[:, None]
    return tokens, mask


def test_the_three_projectors_are_found():
    assert {"linear", "mlp", "qformer"} <= set(list_projectors())


@pytest.mark.parametrize("name", list_projectors())
def test_lengths_are_the_declared_ones(name):
    projector = make(name)
    tokens, mask = batch([7, 5, 1])
    out, valid = projector(tokens, mask, (N_TIME, N_FREQ))
    assert out.shape[-1] == LLM_DIM and valid.shape == out.shape[:2] and valid.dtype == torch.bool
    assert valid.sum(1).tolist() == [projector.config.n_tokens_for(n) for n in (7, 5, 1)]
    assert (valid.int().diff(dim=1) <= 0).all()  # the valid ones come first


@pytest.mark.parametrize("name", list_projectors())
def test_padding_and_batch_do_not_change_a_clip(name):
    projector = make(name)
    tokens, mask = batch([7, 5, 2])
    out, valid = projector(tokens, mask, (N_TIME, N_FREQ))
    for row, steps in enumerate((7, 5, 2)):
        alone, alone_valid = projector(
            tokens[row : row + 1, : steps * N_FREQ], mask[row : row + 1, : steps * N_FREQ], (steps, N_FREQ)
        )
        torch.testing.assert_close(out[row][valid[row]], alone[0][alone_valid[0]], atol=1e-6, rtol=1e-5)
    noisy = tokens.masked_fill(~mask[..., None], 1e4)
    torch.testing.assert_close(projector(noisy, mask, (N_TIME, N_FREQ))[0][valid], out[valid])


@pytest.mark.parametrize("name", list_projectors())
def test_order_in_time_reaches_the_output(name):
    projector = make(name)
    with torch.no_grad():  # fresh attention is nearly uniform and so nearly blind to order: sharpen it
        for parameter in projector.parameters():
            parameter.mul_(5.0)
    tokens, mask = batch([6], n_time=6)
    swapped = tokens.view(1, 6, N_FREQ, DIM).flip(1).reshape(tokens.shape)
    a, b = projector(tokens, mask, (6, N_FREQ))[0], projector(swapped, mask, (6, N_FREQ))[0]
    assert (a - b).abs().max() > 1e-2 * a.abs().max()


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_change_at_one_time_changes_only_its_token(name):
    projector = make(name, stack=2)
    tokens, mask = batch([N_TIME])
    out, _ = projector(tokens, mask, (N_TIME, N_FREQ))
    for step in range(N_TIME):
        changed = tokens.clone()
        changed[:, step * N_FREQ : (step + 1) * N_FREQ] += torch.randn(DIM)
        moved = (projector(changed, mask, (N_TIME, N_FREQ))[0] - out).abs().sum(-1)[0]
        assert (moved > 1e-6).nonzero().flatten().tolist() == [step // 2]
    assert projector.config.tokens_per_second == pytest.approx(3.125)


@pytest.mark.parametrize("name", list_projectors())
def test_config_survives_a_round_trip_and_training_reaches_all_parameters(name):
    projector = make(name)
    again = projector_from_config(projector_config(projector.config.to_dict()))
    assert again.config == projector.config
    again.load_state_dict(projector.state_dict())
    tokens, mask = batch([7, 4])
    out, valid = again.train()(tokens, mask, (N_TIME, N_FREQ))
    torch.testing.assert_close(out[valid], projector(tokens, mask, (N_TIME, N_FREQ))[0][valid])
    out[valid].square().sum().backward()
    assert [n for n, p in again.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_stack_time_keeps_frequency_rows_of_one_step_together():
    tokens = torch.arange(3 * 2, dtype=torch.float32).view(1, 6, 1)  # t0f0 t0f1 t1f0 t1f1 t2f0 t2f1
    stacked, valid = stack_time(tokens, torch.ones(1, 6, dtype=torch.bool), (3, 2), 2)
    assert stacked.tolist() == [[[0, 1, 2, 3], [4, 5, 0, 0]]] and valid.tolist() == [[True, True]]


def test_mistakes_are_named():
    with pytest.raises(ProjectorError, match="did you mean 'linear'"):
        make("liner")
    with pytest.raises(ProjectorError, match="did you mean 'stack'"):
        make("mlp", stak=2)
    tokens, mask = batch([N_TIME])
    with pytest.raises(ProjectorError, match="grid"):
        make("mlp")(tokens, mask, (N_FREQ, N_TIME))
