"""Contrastive losses, one file each: `train/pretrain/losses/<name>.py` assigns `LOSS`, a subclass of `ContrastiveLoss`.

A file in a plug-in folder is found in the same way. `contrastive.loss` of a config names one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alm.common.plugins import Registry

if TYPE_CHECKING:
    from train.pretrain.losses.base import ContrastiveLoss

LOSSES: Registry[type[ContrastiveLoss]] = Registry(
    "contrastive loss", "LOSS", "train.pretrain.losses", expected="<a subclass of ContrastiveLoss>"
)
