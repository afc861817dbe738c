"""Mask layouts, one file each: `train/pretrain/masks/<name>.py` assigns `MASK_LAYOUT`, a function.

A file in a plug-in folder is found in the same way. `contrastive.mask_layout` of a config names one; the contract is
`train.pretrain.masks.base.MaskLayout`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alm.common.plugins import Registry

if TYPE_CHECKING:
    from train.pretrain.masks.base import MaskLayout

MASK_LAYOUTS: Registry[MaskLayout] = Registry(
    "mask layout",
    "MASK_LAYOUT",
    "train.pretrain.masks",
    accepts=callable,
    expected="<a function; see MaskLayout>",
)
