"""The graph-attention head: a clip alone equals the clip in a padded batch, every parameter learns, and it learns."""

import pytest
import torch
from torch.nn import functional

from alm.common.errors import ConfigError
from encoders import AudioMosaicEncoder
from train.finetune.aasist import Aasist, GraphPool
from train.finetune.heads import FinetuneModel, GraphHead, build_head, encode
from train.settings.finetune import FinetuneSettings

N_FREQ = 4


def head(dim: int = 8) -> Aasist:
    torch.manual_seed(0)
    return Aasist(dim, N_FREQ, width=16)


def test_padding_changes_nothing():
    model = head().eval()
    short, long = torch.randn(1, 5 * N_FREQ, 8), torch.randn(1, 9 * N_FREQ, 8)
    both = torch.cat([functional.pad(short, (0, 0, 0, 4 * N_FREQ), value=7.0), long])
    mask = torch.arange(9 * N_FREQ)[None] < torch.tensor([[5 * N_FREQ], [9 * N_FREQ]])
    with torch.no_grad():
        together = model(both, mask)
        assert torch.allclose(together[0], model(short)[0], atol=1e-5)
        assert torch.allclose(together[1], model(long)[0], atol=1e-5)
        assert together.isfinite().all() and together.shape == (2, 5 * 16)


def test_one_step_of_audio_is_enough():
    assert head()(torch.randn(2, N_FREQ, 8)).isfinite().all()


def test_pooling_keeps_the_share_of_what_exists():
    pool = GraphPool(3, 0.5)
    exists = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    _, kept = pool(torch.randn(2, 6, 3), exists)
    assert kept.sum(dim=1).tolist() == [3, 1] and not (kept & ~exists).any()


def test_time_order_is_no_matter_but_the_frequency_is():
    """Time nodes get no position; frequency nodes do, since pitch reveals spoofs."""
    model, x = head().eval(), torch.randn(1, 6, N_FREQ, 8)
    with torch.no_grad():
        told = model(x.flatten(1, 2))
        assert torch.allclose(told, model(x.flip(1).flatten(1, 2)), atol=1e-5)
        assert (told - model(x.flip(2).flatten(1, 2))).abs().max() > 1e-3


def test_every_parameter_has_a_gradient():
    model = head()
    model(torch.randn(6, 7 * N_FREQ, 8)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_it_learns_what_one_patch_gives_away():
    """Half of the clips hold one odd patch at a random place: a mean does not show it, a graph's largest node does."""
    torch.manual_seed(1)
    model, linear = head(), torch.nn.Linear(80, 2)
    optimiser = torch.optim.AdamW([*model.parameters(), *linear.parameters()], lr=3e-3)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = torch.randn(n, 8 * N_FREQ, 8), torch.randint(2, (n,))
        where = torch.randint(8 * N_FREQ, (n,))
        x[torch.arange(n), where] += y[:, None] * torch.tensor([10.0, -10.0] * 4)
        return x, y

    for _ in range(240):
        x, y = draw(32)
        optimiser.zero_grad()
        functional.cross_entropy(linear(model(x)), y).backward()
        optimiser.step()
    x, y = draw(400)
    with torch.no_grad():
        right = (linear(model.eval()(x)).argmax(dim=1) == y).float().mean()
    assert right > 0.8


def test_in_fine_tuning_it_reads_tokens_and_reaches_the_encoder():
    encoder = AudioMosaicEncoder.tiny()
    options = FinetuneSettings(mode="full", head="aasist", head_std=0.02)
    waveforms, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    example = encode(encoder, options, waveforms, lengths)
    assert example["features"].ndim == 3 and "mask" in example
    built = build_head(encoder, options, example["features"], 2)
    assert isinstance(built, GraphHead)
    model = FinetuneModel(built, encoder, options, multi_label=False)
    model(waveforms=waveforms, lengths=lengths, labels=torch.eye(2))["loss"].backward()
    assert encoder.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_modes_without_tokens_are_refused():
    with pytest.raises(ConfigError, match="finetune.head: aasist reads tokens"):
        FinetuneSettings(mode="linear", head="aasist")
