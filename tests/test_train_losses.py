"""NT-Xent: the golden value and gradients, chunks, precision, several processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from train.pretrain.losses.base import ContrastiveLoss
from train.pretrain.losses.nt_xent import NTXent
from train.pretrain.losses.siglip import SigmoidLoss


def views(batch: int = 12, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(batch, dim, generator=generator)
    return first, first + 0.8 * torch.randn(batch, dim, generator=generator)


def nt_xent(z0: Tensor, z1: Tensor, **options: float) -> Tensor:
    return NTXent(**options)(z0, z1)


def loss_and_grads(z0: Tensor, z1: Tensor, **options: float) -> list[Tensor]:
    z0, z1 = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    loss = nt_xent(z0, z1, **options)
    return [loss.detach(), *torch.autograd.grad(loss, (z0, z1))]


def test_golden(shared_dir: Path) -> None:
    golden = load_file(shared_dir / "golden" / "audiomosaic_tiny_expected.safetensors")
    got = loss_and_grads(golden["ntxent.z0"], golden["ntxent.z1"])
    for value, name in zip(got, ("loss", "grad_z0", "grad_z1"), strict=True):
        assert (value - golden[f"ntxent.{name}"].reshape(value.shape)).abs().max() <= 1e-5


def nt_xent_in_numpy(
    z0: np.ndarray, z1: np.ndarray, temperature: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients from the formula, row by row in float64; no line is shared with the code under test.

    With unit rows u, loss = -1/2B sum_i log softmax_{k != i}(u_i . u_k / t) at i's other view. Its gradient at u_i is
    (sum_k (p_ik + p_ki) u_k - 2 u_partner) / (2B t), and a unit row's at z is the part across z, over |z|.
    """
    z = np.concatenate([z0, z1]).astype(float)
    n = len(z)
    length = np.sqrt((z**2).sum(axis=1, keepdims=True))
    unit = z / length
    p, loss = np.zeros((n, n)), 0.0
    for i in range(n):
        scores = {k: np.exp(unit[i] @ unit[k] / temperature) for k in range(n) if k != i}
        for k, score in scores.items():
            p[i, k] = score / sum(scores.values())
        loss -= np.log(p[i, (i + n // 2) % n]) / n
    at_unit = ((p + p.T) @ unit - 2 * np.roll(unit, n // 2, axis=0)) / (n * temperature)
    at_z = (at_unit - (at_unit * unit).sum(axis=1, keepdims=True) * unit) / length
    return loss, at_z[: n // 2], at_z[n // 2 :]


@pytest.mark.parametrize(("batch", "temperature"), [(2, 0.1), (12, 0.1), (5, 0.7)])
def test_value_and_gradients_equal_the_formula(batch: int, temperature: float) -> None:
    z0, z1 = views(batch, seed=batch)
    wanted = nt_xent_in_numpy(z0.numpy(), z1.numpy(), temperature)
    for value, expected in zip(loss_and_grads(z0, z1, temperature=temperature), wanted, strict=True):
        assert np.abs(value.numpy() - expected).max() <= 1e-5


def test_the_formula_is_differentiated_rightly() -> None:
    """The reference's own gradients against finite differences of its own loss."""
    z0, z1 = (view.double().numpy() for view in views(3, dim=4))
    _, grad, _ = nt_xent_in_numpy(z0, z1, 0.3)
    step = np.zeros_like(z0)
    step[1, 2] = 1e-6
    ends = [nt_xent_in_numpy(z0 + sign * step, z1, 0.3)[0] for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(grad[1, 2], abs=1e-6)


def test_by_hand() -> None:
    """Two clips; only the partners are alike: -log(e^(1/t) / (e^(1/t) + 2 e^0))."""
    z = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    expected = -torch.log(torch.exp(torch.tensor(2.0)) / (torch.exp(torch.tensor(2.0)) + 2))
    assert torch.allclose(nt_xent(z, 2 * z, temperature=0.5), expected)


@pytest.mark.parametrize("rows", [1, 5, 24, 100])
def test_chunks_change_nothing(rows: int) -> None:
    for plain, chunked in zip(
        loss_and_grads(*views()), loss_and_grads(*views(), chunk_rows=rows), strict=True
    ):
        assert torch.allclose(plain, chunked, atol=1e-7)


@pytest.mark.parametrize("loss", [NTXent(), SigmoidLoss()])
def test_logits_stay_in_float32(loss: ContrastiveLoss) -> None:
    z0, z1 = views(64)
    exact = loss(z0.bfloat16().float(), z1.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(z0.bfloat16(), z1.bfloat16())
    assert got.dtype == torch.float32 and torch.equal(got, exact)


@pytest.mark.parametrize(("shape0", "shape1"), [((4, 8), (5, 8)), ((4, 8, 2), (4, 8, 2)), ((1, 8), (1, 8))])
def test_bad_shapes(shape0: tuple[int, ...], shape1: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        nt_xent(torch.randn(shape0), torch.randn(shape1))


def test_sigmoid_by_hand() -> None:
    """Every pair is a yes-no question: -log sigmoid(t z0.z1 + b) for partners, -log sigmoid(-(t z0.z1 + b)) else."""
    z0, z1 = views(6)
    loss = SigmoidLoss()
    cosines = functional.normalize(z0, dim=1) @ functional.normalize(z1, dim=1).T
    signs = 2 * torch.eye(6) - 1
    expected = -functional.logsigmoid(signs * (10 * cosines - 10)).sum() / 6
    assert torch.allclose(loss(z0, z1), expected, atol=1e-5)
    assert loss(z0, z1) < loss(z0, z1.roll(1, dims=0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(z0.bfloat16(), z1.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError):
        loss(z0, z1[:5])


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_sigmoid_in_chunks(rows: int) -> None:
    grads = []
    for chunk_rows in (0, rows):
        z0, loss = views()[0].requires_grad_(), SigmoidLoss(chunk_rows=chunk_rows)
        grads.append(torch.autograd.grad(loss(z0, views()[1]), (z0, *loss.parameters())))
    for plain, chunked in zip(*grads, strict=True):
        assert torch.allclose(plain, chunked, atol=1e-6)


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        z0, z1 = views()
        mine = slice(rank * 6, rank * 6 + 6)
        weight = torch.eye(16).requires_grad_()  # a shared parameter before the loss
        results = []
        for kind in (NTXent(chunk_rows=0), NTXent(chunk_rows=4), SigmoidLoss(), SigmoidLoss(chunk_rows=4)):
            loss = kind(z0[mine] @ weight, z1[mine] @ weight)
            (grad,) = torch.autograd.grad(loss, weight)
            both = torch.stack([loss.detach(), *grad.flatten()])
            dist.all_reduce(both)
            results.append(both / 2)  # the mean over processes, as DistributedDataParallel takes it
        if rank == 0:
            torch.save(results, f"{folder}/results.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    z0, z1 = views()
    weight = torch.eye(16).requires_grad_()
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    for got, kind in zip(results, (NTXent(), NTXent(), SigmoidLoss(), SigmoidLoss()), strict=True):
        loss = kind(z0 @ weight, z1 @ weight)
        expected = torch.stack([loss.detach(), *torch.autograd.grad(loss, weight)[0].flatten()])
        assert (got - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)
        assert (got[1:] - expected[1:]).abs().max() <= 1e-7 * expected[1:].abs().max().clamp(min=1) + 1e-7
