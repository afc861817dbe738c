"""Masks keep what their layout says, in time order, drawn for every clip by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from alm.common.errors import ConfigError
from train.pretrain.masks import MASK_LAYOUTS
from train.pretrain.masks.base import BRANCHES, generator_noise, n_visible, sample_visible_tokens

GRID = (64, 8)


def draw(
    layout: str, branch: str, ratio: float, batch: int = 16, grid: tuple[int, int] = GRID, seed: int = 0
) -> Tensor:
    noise = generator_noise(batch, torch.Generator().manual_seed(seed))
    return sample_visible_tokens(MASK_LAYOUTS.get(layout), grid, ratio, branch, noise)


def as_grid(keep: Tensor, grid: tuple[int, int] = GRID) -> Tensor:
    """(B, n_time, n_freq) bool, True where kept."""
    kept = torch.zeros(len(keep), grid[0] * grid[1], dtype=torch.bool)
    return kept.scatter_(1, keep, True).unflatten(1, grid)


@pytest.mark.parametrize("grid", [GRID, (31, 5), (8, 2)])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("layout", MASK_LAYOUTS.names())
def test_tokens_are_distinct_in_range_and_in_time_order(
    layout: str, branch: str, grid: tuple[int, int]
) -> None:
    keep = draw(layout, branch, 0.5, grid=grid)
    assert keep.dtype == torch.int64 and (keep.diff(dim=1) > 0).all()
    assert keep.min() >= 0 and keep.max() < grid[0] * grid[1]
    assert len({tuple(row.tolist()) for row in keep}) > 1  # clips are masked by themselves
    assert torch.equal(keep, draw(layout, branch, 0.5, grid=grid))
    assert not torch.equal(keep, draw(layout, branch, 0.5, grid=grid, seed=1))


def test_time_branch_hides_whole_columns() -> None:
    kept = as_grid(draw("time_frequency", "time", 0.6))
    assert (kept.all(dim=2) == kept.any(dim=2)).all()
    assert (kept.any(dim=2).sum(dim=1) == 25).all() and (kept.sum(dim=(1, 2)) == 200).all()


def test_freq_branch_hides_whole_bands() -> None:
    kept = as_grid(draw("time_frequency", "freq", 0.4))
    assert (kept.all(dim=1) == kept.any(dim=1)).all()
    assert (kept.any(dim=1).sum(dim=1) == 4).all() and (kept.sum(dim=(1, 2)) == 256).all()


def test_every_column_and_band_is_kept_equally_often() -> None:
    columns = as_grid(draw("time_frequency", "time", 0.6, batch=4000)).any(dim=2).float().mean(dim=0)
    bands = as_grid(draw("time_frequency", "freq", 0.4, batch=4000)).any(dim=1).float().mean(dim=0)
    assert (columns - 25 / 64).abs().max() < 0.04 and (bands - 0.5).abs().max() < 0.04


@pytest.mark.parametrize("branch", BRANCHES)
def test_one_sided_and_unstructured_layouts(branch: str) -> None:
    assert torch.equal(draw("time", branch, 0.6), draw("time_frequency", "time", 0.6))
    assert torch.equal(draw("freq", branch, 0.4), draw("time_frequency", "freq", 0.4))
    assert draw("unstructured", branch, 0.6).shape == (16, 204)


@pytest.mark.parametrize(("grid", "ratio"), [(GRID, 0.6), (GRID, 0.4), ((31, 5), 0.45), ((8, 2), 0.9)])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("layout", ["time_frequency", "official", "unstructured", "time", "freq"])
def test_layouts_equal_a_grid_drawn_by_hand(
    layout: str, branch: str, grid: tuple[int, int], ratio: float
) -> None:
    """A picture of the grid is painted line by line; the released code paints it with its two axes exchanged."""
    drawn = draw(layout, branch, ratio, batch=6, grid=grid, seed=4)
    n_time, n_freq = grid[::-1] if layout == "official" else grid
    lines = {"time": n_time, "freq": n_freq}.get(layout if layout in BRANCHES else branch, 0)
    n = n_time * n_freq if layout == "unstructured" else lines
    noise = torch.rand(6, n, generator=torch.Generator().manual_seed(4)).numpy()
    for row, numbers in zip(drawn, noise, strict=True):
        visible = sorted(range(n), key=lambda i, numbers=numbers: numbers[i])[
            : max(1, int(n * (1 - ratio) + 1e-9))
        ]
        picture = np.zeros((n_time, n_freq), dtype=bool)
        for i in visible:
            if layout == "unstructured":
                picture.flat[i] = True
            elif layout == "time" or (branch == "time" and layout != "freq"):
                picture[i, :] = True
            else:
                picture[:, i] = True
        assert row.tolist() == np.flatnonzero(picture).tolist()


def official_time_blocks(keep: Tensor) -> Tensor:
    """Kept tokens as (B, 8, 64): what the released code believes to be (n_time, n_freq)."""
    return as_grid(keep, (8, 64))


def is_official(keep: Tensor, branch: str) -> bool:
    kept = official_time_blocks(keep)
    over = 2 if branch == "time" else 1  # the axis a released mask is constant along
    return bool((kept.all(dim=over) == kept.any(dim=over)).all())


def test_official_layout_is_that_of_the_released_code(shared_dir: Path) -> None:
    golden = load_file(shared_dir / "golden" / "audiomosaic_tiny_expected.safetensors")
    for branch, ratio, count in (("time", 0.6, 192), ("freq", 0.4, 304)):
        wanted, ours = golden[f"legacy_mask.{branch}.ids_keep"], draw("official", branch, ratio)
        assert wanted.shape[1] == ours.shape[1] == count
        assert is_official(wanted, branch) and is_official(ours, branch)
        assert not is_official(draw("unstructured", branch, ratio), branch)
    blocks = official_time_blocks(draw("official", "time", 0.6)).any(dim=2).sum(dim=1)
    assert (blocks == 3).all()


def test_official_draws_equal_the_released_arithmetic() -> None:
    """The released code: noise, argsort, keep the first; then ids as (block, cell) with the axes swapped."""
    order = torch.rand(5, 8, generator=torch.Generator().manual_seed(3)).argsort(dim=1)[
        :, : int(8 * (1 - 0.6))
    ]
    wanted = (order.unsqueeze(-1) * 64 + torch.arange(64)).reshape(5, -1).sort(dim=1).values
    assert torch.equal(draw("official", "time", 0.6, batch=5, seed=3), wanted)
    order = torch.rand(5, 64, generator=torch.Generator().manual_seed(3)).argsort(dim=1)[
        :, : int(64 * (1 - 0.4))
    ]
    wanted = (torch.arange(8).view(1, 8, 1) * 64 + order.view(5, 1, -1)).reshape(5, -1).sort(dim=1).values
    assert torch.equal(draw("official", "freq", 0.4, batch=5, seed=3), wanted)


def test_counts() -> None:
    assert [
        n_visible(64, 0.6),
        n_visible(8, 0.4),
        n_visible(20, 0.9),
        n_visible(8, 0.99),
        n_visible(8, 0.0),
    ] == [
        25,
        4,
        2,
        1,
        8,
    ]


def test_bad_arguments() -> None:
    for branch, ratio in (("both", 0.5), ("time", 1.0), ("freq", -0.1)):
        with pytest.raises(ValueError, match="one of time, freq"):
            draw("time", branch, ratio)
    with pytest.raises(ConfigError, match="unknown mask layout 'tim'; did you mean 'time'"):
        draw("tim", "time", 0.5)
