"""Every registered projector keeps the contract: declared lengths, padding invariance, time order."""

from types import SimpleNamespace

import pytest
import torch

from alm.common.errors import ConfigError
from projectors import (
    ProjectorError,
    build_projector,
    list_projectors,
    projector_config,
    projector_from_config,
)
from projectors.base import mean_time, stack_time

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


def test_every_file_is_found():
    assert {"linear", "mlp", "qformer", "window_qformer", "pool", "ltu", "ultravox", "conv1d"} <= set(
        list_projectors()
    )


@pytest.mark.parametrize("name", list_projectors())
@pytest.mark.parametrize("frame_rate_hz", [6.25, 12.5, 50.0])
def test_the_declared_rate_is_what_a_minute_gives(name, frame_rate_hz):
    encoder = SimpleNamespace(config=SimpleNamespace(dim=DIM, n_freq=N_FREQ, frame_rate_hz=frame_rate_hz))
    config = build_projector(name, encoder, LLM_DIM).config
    n_time = round(60 * frame_rate_hz)
    if config.tokens_per_second is None:
        assert config.n_tokens_for(n_time) == config.n_tokens_for(1)
    else:
        assert config.n_tokens_for(n_time) == pytest.approx(60 * config.tokens_per_second, abs=2)
    assert config.n_tokens_for(0) == 0


# What pads, orders or counts tokens in another way than the defaults.
VARIANTS = [
    ("conv1d", {"stride": 2, "kernel": 6}), ("ltu", {"variant": "official"}), ("mlp", {"stack": 3, "context": True}),
    ("ultravox", {"stack": 2, "ln_mid": False}), ("window_qformer", {"n_queries": 3, "window_s": 0.32}),
]  # fmt: skip
EVERY = pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in list_projectors()), *VARIANTS],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)


@EVERY
def test_lengths_are_the_declared_ones(name, options):
    projector = make(name, **options)
    tokens, mask = batch([7, 5, 1])
    out, valid = projector(tokens, mask, (N_TIME, N_FREQ))
    assert out.shape[-1] == LLM_DIM and valid.shape == out.shape[:2] and valid.dtype == torch.bool
    assert valid.sum(1).tolist() == [projector.config.n_tokens_for(n) for n in (7, 5, 1)]
    assert (valid.int().diff(dim=1) <= 0).all()  # the valid ones come first


@EVERY
def test_padding_and_batch_do_not_change_a_clip(name, options):
    projector = make(name, **options)
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
def test_wrong_options_and_tokens_are_named(name):
    """The nearest option, or all of them; what is missing; sizes that do not fit the config."""
    config = make(name).config.to_dict()
    with pytest.raises(ProjectorError, match=rf"projector '{name}' has no option 'llm_dimm'; .*'llm_dim'"):
        projector_config(config | {"llm_dimm": 3})
    with pytest.raises(ProjectorError, match="has no option 'zzz'; known options: encoder_dim, n_freq"):
        projector_config(config | {"zzz": 3})
    with pytest.raises(ProjectorError, match=f"projector '{name}': encoder_dim, llm_dim missing"):
        projector_config({k: v for k, v in config.items() if k not in ("encoder_dim", "llm_dim")})
    with pytest.raises(ProjectorError, match=f"projector '{name}': n_freq=0, expected more than 0"):
        projector_config(config | {"n_freq": 0})
    projector, (tokens, mask) = make(name), batch([7])
    for wrong_tokens, wrong_mask in ((tokens[..., 1:], mask), (tokens, mask[:, 1:])):
        with pytest.raises(ProjectorError, match=f"expected width {DIM} and one mask entry per token"):
            projector(wrong_tokens, wrong_mask, (N_TIME, N_FREQ))
    with pytest.raises(ProjectorError, match=f"expected n_time x {N_FREQ}"):
        projector(tokens, mask, (N_TIME, N_FREQ + 1))


@EVERY
def test_what_all_tokens_share_is_subtracted(name, options):
    """A centred projector gives for moved tokens what a plain one gives for tokens; also after saving and loading."""
    plain, centred = make(name, **options), make(name, centred=True, **options)
    tokens, mask = batch([7, 5, 1])
    wanted, valid = plain(tokens, mask, (N_TIME, N_FREQ))
    shift = 30 + torch.arange(DIM, dtype=torch.float32)
    moved = plain(tokens + shift, mask, (N_TIME, N_FREQ))[0]
    assert (moved - wanted)[valid].abs().max() > 1e-3
    assert torch.equal(centred(tokens, mask, (N_TIME, N_FREQ))[0], wanted), "nothing was measured yet"
    assert "centre" not in plain.state_dict()
    for projector in (plain, centred):
        projector.centre_on(shift)
        loaded = projector_from_config(projector_config(projector.config.to_dict())).eval()
        loaded.load_state_dict(projector.state_dict())
        for one in (projector, loaded):
            got = one(tokens + shift, mask, (N_TIME, N_FREQ))[0]
            torch.testing.assert_close(got[valid], wanted[valid], atol=1e-4, rtol=1e-4)
        projector.centre_on(shift, scale := torch.linspace(0.5, 2, DIM))
        loaded = projector_from_config(projector_config(projector.config.to_dict())).eval()
        loaded.load_state_dict(projector.state_dict())
        for one in (projector, loaded):
            got = one(tokens / scale + shift, mask, (N_TIME, N_FREQ))[0]
            torch.testing.assert_close(got[valid], wanted[valid], atol=1e-4, rtol=1e-4)
        projector.centre_on(shift)
        assert not projector.config.scaled and "scale" not in projector.state_dict()
    assert not any("centre" in key or "scale" in key for key, _ in plain.named_parameters())
    with pytest.raises(ProjectorError, match="scaled=True without centred=True; set both"):
        make(name, scaled=True, **options)


@EVERY
def test_order_in_time_reaches_the_output(name, options):
    projector = make(name, **options)
    with torch.no_grad():  # fresh attention is nearly uniform and so nearly blind to order: sharpen it
        for parameter in projector.parameters():
            parameter.mul_(5.0)
    tokens, mask = batch([6], n_time=6)
    swapped = tokens.view(1, 6, N_FREQ, DIM).flip(1).reshape(tokens.shape)
    a, b = projector(tokens, mask, (6, N_FREQ))[0], projector(swapped, mask, (6, N_FREQ))[0]
    assert (a - b).abs().max() > 1e-2 * a.abs().max()


LOCAL = {
    "linear": {"stack": 2}, "mlp": {"stack": 2}, "pool": {"stride": 2}, "ltu": {"stride": 2},
    "window_qformer": {"window_s": 0.32}, "ultravox": {"stack": 2}, "conv1d": {"stride": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_a_change_at_one_time_changes_only_its_token(name):
    projector = make(name, **LOCAL[name])
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
    # a single query has nothing to choose among in self-attention, so nothing to learn there
    projector = make(name, **({"n_queries": 2} if name == "window_qformer" else {}))
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
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        make("liner")
    with pytest.raises(ProjectorError, match="did you mean 'stack'"):
        make("mlp", stak=2)
    tokens, mask = batch([N_TIME])
    with pytest.raises(ProjectorError, match="grid"):
        make("mlp")(tokens, mask, (N_FREQ, N_TIME))


def test_window_qformer_gives_its_queries_per_window():
    projector = make("window_qformer", window_s=0.5, n_queries=3)  # 3 steps of 0.16 s
    tokens, mask = batch([7, 3])
    out, valid = projector(tokens, mask, (N_TIME, N_FREQ))
    assert valid.sum(1).tolist() == [9, 3] and projector.config.tokens_per_second == pytest.approx(6.25)
    assert build_projector("window_qformer", ENCODER, LLM_DIM).config.window == 2  # SALMONN's 0.33 s
    with pytest.raises(ProjectorError, match="window_s=0"):
        make("window_qformer", window_s=0.0)


def test_pooling_is_a_mean_over_what_is_valid():
    tokens, mask = batch([5])
    pooled, valid = mean_time(tokens, mask, (N_TIME, N_FREQ), 2)
    steps = tokens.view(N_TIME, N_FREQ, DIM)
    torch.testing.assert_close(pooled[0, 0], steps[0:2].mean((0, 1)))
    torch.testing.assert_close(pooled[0, 2], steps[4].mean(0))
    assert valid.tolist() == [[True, True, True, False]] and not pooled[0, 3].any()


def test_ltu_variants_read_the_same_tokens_differently():
    tokens, mask = batch([N_TIME])
    corrected, official = (make("ltu", variant=v, token_norm=False) for v in ("corrected", "official"))
    right = tokens.view(1, N_TIME, N_FREQ, DIM).mean(2)
    folded = tokens.view(1, N_FREQ, N_TIME, DIM).mean(1)  # what the official code does
    for projector, steps in ((corrected, right), (official, folded)):
        wanted = torch.stack([steps[0, i : i + 2].mean(0) for i in range(0, N_TIME, 2)])
        wanted = torch.nn.functional.layer_norm(wanted / 50, (DIM,))
        torch.testing.assert_close(projector.pool(tokens, mask, (N_TIME, N_FREQ))[0][0], wanted)
    with pytest.raises(ProjectorError, match="expected one of corrected, official"):
        make("ltu", variant="fixed")


def test_ltu_official_is_what_the_official_code_computes(shared_dir):
    from safetensors.torch import load_file

    from encoders import AudioMosaicEncoder

    golden = load_file(shared_dir / "golden/audiomosaic_tiny_expected.safetensors")
    encoder = AudioMosaicEncoder.from_pretrained(shared_dir / "golden/audiomosaic_tiny_release")
    tokens = encoder.fc_norm(golden["eval.tokens"])[:, 1:]  # LTU applies it to every token
    projector = build_projector("ltu", encoder, LLM_DIM, variant="official", token_norm=False)
    pooled, valid = projector.pool(tokens, torch.ones(2, 512, dtype=torch.bool), (64, 8))
    assert valid.all() and (pooled - golden["ltu.official_eval_pooled"]).abs().max() <= 1e-5


def test_ultravox_is_the_published_computation():
    """The released `UltravoxProjector`, written out: rms, gate from the second half, norms at 0.4."""
    tokens, mask = batch([6], n_time=6)

    def rms(x):
        return 0.4 * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    for ln_mid in (True, False):
        projector = make("ultravox", stack=2, hidden=10, ln_mid=ln_mid)
        names = {
            "ln_pre.weight",
            "linear_1.weight",
            "linear_2.weight",
            "ln_mid.weight" if ln_mid else "ln_post.weight",
        }
        assert set(projector.state_dict()) == names
        wide = rms(tokens.reshape(1, 3, 2 * N_FREQ * DIM)) @ projector.linear_1.weight.T
        value, gate = wide[..., :5], wide[..., 5:]
        inner = value * gate * gate.sigmoid()
        wanted = (
            rms(inner) @ projector.linear_2.weight.T if ln_mid else rms(inner @ projector.linear_2.weight.T)
        )
        torch.testing.assert_close(projector(tokens, mask, (6, N_FREQ))[0], wanted)
    for wrong in (1, 3, 0):
        with pytest.raises(ProjectorError, match=f"hidden={wrong}, expected an even number"):
            make("ultravox", hidden=wrong)


def test_a_wide_kernel_reaches_equally_far_on_both_sides():
    projector = make("conv1d", stride=2, kernel=4)  # token m sees steps 2m - 1 to 2m + 2
    tokens, mask = batch([N_TIME])
    out, _ = projector(tokens, mask, (N_TIME, N_FREQ))
    reached = []
    for step in range(N_TIME):
        changed = tokens.clone()
        changed[:, step * N_FREQ : (step + 1) * N_FREQ] += torch.randn(DIM)
        moved = (projector(changed, mask, (N_TIME, N_FREQ))[0] - out).abs().sum(-1)[0]
        reached.append((moved > 1e-7).nonzero().flatten().tolist())
    assert reached == [[0], [0, 1], [0, 1], [1, 2], [1, 2], [2, 3], [2, 3]]
    for wrong in (1, 3):
        with pytest.raises(ProjectorError, match=f"kernel={wrong}, expected stride"):
            make("conv1d", stride=2, kernel=wrong)


def test_dropout_acts_in_training_alone_and_draws_nothing_at_zero():
    tokens, mask = batch([N_TIME, N_TIME])
    grid = (N_TIME, N_FREQ)
    dropping, plain = make("mlp", dropout=0.5), make("mlp")  # the same weights
    expected = plain(tokens, mask, grid)[0]
    assert torch.equal(dropping(tokens, mask, grid)[0], expected)
    assert not torch.allclose(dropping.train()(tokens, mask, grid)[0], expected)
    before = torch.get_rng_state()
    assert torch.equal(plain.train()(tokens, mask, grid)[0], expected)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ProjectorError, match="dropout=1.0, expected 0 or more, below 1"):
        make("mlp", dropout=1)
