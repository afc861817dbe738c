"""The contrastive model: its draws, chunks, precision of gradients, and several processes, through the real thing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from encoders.zoo.audiomosaic.model import AudioMosaicConfig, AudioMosaicEncoder
from train.engine.sync_norm import SyncBatchNorm1d
from train.pretrain.contrastive import ContrastiveModel, build_loss
from train.pretrain.masks import MASK_LAYOUTS
from train.pretrain.masks.base import clip_noise, sample_visible_tokens
from train.settings.pretrain import ContrastiveSettings

CASES = [
    {},
    {"grad_cache_chunk": 3, "loss_chunk_rows": 5},
    {"loss": "siglip", "loss_chunk_rows": 3},
    {"mask_layout": "unstructured", "grad_cache_chunk": 1},
]
N_CLIPS = 8


def build(drop: float = 0.0, **options: object) -> ContrastiveModel:
    torch.manual_seed(0)
    config = AudioMosaicConfig(
        spec_size=(64, 32), patch_size=(8, 16), embed_dim=32, depth=3, num_heads=2, project_embedding_dim=16,
        drop_path_rate=drop, attn_drop_rate=drop,
    )  # fmt: skip
    encoder = AudioMosaicEncoder(config)
    with torch.no_grad():  # untrained features are nearly equal, and BatchNorm would blow up rounding errors
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.mul_(8)
    settings = ContrastiveSettings(**options)
    return ContrastiveModel(encoder, build_loss(settings), settings, seed=3).train()


def batch(n: int = N_CLIPS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tones = torch.sin(torch.arange(11000) / 16000 * 2 * torch.pi * 300 * 1.4 ** torch.arange(n)[:, None])
    waveforms = 0.1 * tones + 0.02 * torch.randn(n, 11000, generator=generator)
    lengths = torch.tensor([11000, 9000, 400, 11000, 10000, 7000, 11000, 8000] * (n // 8 + 1))[:n]
    keep = torch.arange(11000)[None] < lengths[:, None]
    return {"waveforms": waveforms * keep, "lengths": lengths, "clip_keys": torch.arange(n) * 7919}


def loss_and_grads(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = model(**inputs)["loss"]
    loss.backward()
    grads = {
        name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {"loss": loss.detach(), **grads}


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert got.keys() == wanted.keys() and any(value.abs().max() > 1e-3 for value in wanted.values())
    for key, value in wanted.items():
        error = (got[key] - value).abs().max() / value.abs().max().clamp(min=1)
        assert error <= atol, f"{key}: off by {error:.1e}"


@pytest.mark.parametrize("options", CASES[1:2] + [{"grad_cache_chunk": 8}], ids=str)
def test_grad_cache_equals_the_plain_loss(options: dict) -> None:
    assert_same(loss_and_grads(build(**options), batch()), loss_and_grads(build(), batch()))


@pytest.mark.parametrize("fraction", [0.0, 0.67])
def test_grad_cache_replays_drop_path(monkeypatch: pytest.MonkeyPatch, fraction: float) -> None:
    """The reference keeps the activations of the same chunks, so it draws the same dropped paths only once."""
    import train.pretrain.gradcache as gradcache

    def run() -> dict[str, Tensor]:
        model = build(drop=0.5, grad_cache_chunk=3)
        model.encoder.checkpoint_fraction = fraction
        torch.manual_seed(5)
        return loss_and_grads(model, batch())

    cached = run()
    monkeypatch.setattr(gradcache, "checkpoint", lambda encode, *part, **_: encode(*part))
    kept = run()
    assert_same(cached, kept)
    torch.manual_seed(6)
    assert not torch.allclose(
        loss_and_grads(build(drop=0.5, grad_cache_chunk=3), batch())["loss"], kept["loss"]
    )


@pytest.mark.parametrize("fraction", [0.34, 1.0])
def test_recomputed_blocks_change_no_gradient(fraction: float) -> None:
    results = []
    for share in (0.0, fraction):
        model = build(drop=0.3)
        model.encoder.checkpoint_fraction = share
        torch.manual_seed(5)
        results.append(loss_and_grads(model, batch()))
    assert_same(*results, atol=1e-6)


def visible_tokens(keys: object, layout: str, grid: tuple[int, int], ratio: float, **scope: int) -> Tensor:
    return sample_visible_tokens(MASK_LAYOUTS.get(layout), grid, ratio, "time", clip_noise(keys, **scope))


def test_masks_belong_to_the_clip() -> None:
    keys = list(range(40))
    whole = visible_tokens(keys, "time_frequency", (64, 8), 0.6, seed=1, epoch=2, view=0)
    halves = [
        visible_tokens(part, "time_frequency", (64, 8), 0.6, seed=1, epoch=2, view=0)
        for part in (keys[:20], torch.tensor(keys[20:]))
    ]
    assert torch.equal(whole, torch.cat(halves)) and whole.shape == (40, 200)
    assert len({tuple(row.tolist()) for row in whole}) == 40
    for other in ({"seed": 2}, {"epoch": 3}, {"view": 1}):
        scope = {"seed": 1, "epoch": 2, "view": 0} | other
        assert not torch.equal(whole, visible_tokens(keys, "time_frequency", (64, 8), 0.6, **scope))
    # the same in another interpreter: nothing hangs on Python's hash seed
    code = "from train.pretrain.masks.base import clip_noise; print(clip_noise([5, 'a'], seed=1)(4).tolist())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).resolve().parents[1])  # fmt: skip
    assert said.stdout.strip() == str(clip_noise([5, "a"], seed=1)(4).tolist())


def test_columns_and_bands_are_kept_equally_often() -> None:
    keep = visible_tokens(list(range(2000)), "time", (16, 1), 0.5)
    share = torch.bincount(keep.flatten(), minlength=16) / 2000
    assert (share - 0.5).abs().max() < 0.05


def test_silent_clips_leave_the_loss_finite_and_are_counted() -> None:
    for n_silent in (2, N_CLIPS):
        model, inputs = build(), batch()
        inputs["waveforms"][:n_silent] = 0
        results = loss_and_grads(model, inputs)
        assert all(value.isfinite().all() for value in results.values())
        metrics = model.take_metrics()
        assert metrics["silent_clips"] == n_silent
        assert metrics["pooled_effective_rank"] >= 1 and model.take_metrics() == {}


def test_views_of_the_loader_keep_the_length_of_their_clip() -> None:
    """Two views of each clip in one batch give what each clip gives alone, cut to its own length."""
    model, inputs = build().eval(), batch()
    waves, lengths, keys = inputs["waveforms"], inputs["lengths"], inputs["clip_keys"]
    both = torch.stack([waves, -0.5 * waves], dim=1)  # (B, 2, S)
    with torch.no_grad():
        together = model.pooled(both, lengths, keys)
        for i, n in enumerate(lengths.tolist()):
            alone = model.pooled(both[i : i + 1, :, :n], lengths[i : i + 1], keys[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    assert len(set(lengths.tolist())) > 4


def test_the_agreement_in_the_log_is_that_of_both_views() -> None:
    """The correlation of the centred features, in float64."""
    model, inputs = build(), batch()
    with torch.no_grad():
        model(**inputs)
        first, second = model.pooled(**inputs).double().numpy().transpose(1, 0, 2)
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    wanted = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
    assert model.take_metrics()["view_agreement"] == pytest.approx(wanted, abs=1e-4) and wanted < 0.99


def test_evaluation_leaves_no_trace() -> None:
    model = build().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(**batch())
    assert model.take_metrics() == {}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_names_in_the_state_dict_stay() -> None:
    model = build()
    plain = AudioMosaicEncoder(model.encoder.config)
    assert list(model.encoder.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.encoder.projector if isinstance(m, nn.BatchNorm1d)] == [
        SyncBatchNorm1d
    ] * 2
    assert not model.encoder.projector[4].bias.requires_grad


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        mine = slice(rank * N_CLIPS // 2, (rank + 1) * N_CLIPS // 2)
        results = []
        for options in CASES:
            model = build(**options)
            wrapped = DistributedDataParallel(model, find_unused_parameters=True)
            result = loss_and_grads(wrapped, {key: value[mine] for key, value in batch().items()})
            dist.all_reduce(result["loss"])
            result["loss"] /= 2
            buffers = {k: v for k, v in model.state_dict().items() if "running" in k}
            results.append((result, buffers))
        if rank == 0:
            torch.save(results, f"{folder}/results.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Views, masks, BatchNorm statistics, loss and gradients of two half batches are those of the whole."""
    mp.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    for options, (got, buffers) in zip(CASES, torch.load(tmp_path / "results.pt"), strict=True):
        model = build(**options)
        assert_same(got, loss_and_grads(model, batch()))
        for key, value in buffers.items():
            torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=0)


def test_settings_are_checked() -> None:
    from alm.common.errors import ConfigError
    from train.stage import parse_stage

    config = {"stage": "pretrain", "out": "run", "encoder": "audiomosaic", "data": {"train": ["clips"]}}
    parse_stage(config, "config")
    for wrong in (
        {"loss": "triplet"},
        {"mask_layout": "tiles"},
        {"time_ratio": 1.0},
        {"grad_cache_chunk": -1},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            parse_stage(config | {"contrastive": wrong}, "config")
