"""BatchNorm over the whole batch, however many processes hold it.

In the published run, each device has 512 clips, and the BatchNorm of the contrastive head computes its statistics over
the clips of all devices. PyTorch's SyncBatchNorm does the same on CUDA only.

Axis letters: B clips of this process, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.processes import rank_and_world, sum_with_gradient


class SyncBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d of (B, D) whose training statistics are those of all processes, on any device.

    In a single process, and in evaluation, it is BatchNorm1d. Keys in the state dict are the same.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        """Normalise (B, D); computed in float32, returned in the dtype that came in."""
        if not self.training or rank_and_world()[1] == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            count = sum_with_gradient(x.new_tensor([float(len(x))]))
            mean = sum_with_gradient(x.sum(dim=0)) / count  # (D,)
            centred = x - mean
            variance = sum_with_gradient(centred.square().sum(dim=0)) / count
            self._track(mean.detach(), variance.detach() * count / (count - 1))
            y = centred * (variance + self.eps).rsqrt()
            if self.affine:
                y = y * self.weight.float() + self.bias.float()
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics (of the unbiased variance, as PyTorch does)."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Replace every BatchNorm1d inside a module by one over all processes; parameters and buffers stay the same."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm1d:
                synchronised = SyncBatchNorm1d(
                    child.num_features,
                    child.eps,
                    child.momentum,
                    child.affine,
                    child.track_running_stats,
                    device="meta",
                )
                synchronised._parameters, synchronised._buffers = child._parameters, child._buffers
                synchronised.train(child.training)
                setattr(parent, name, synchronised)
