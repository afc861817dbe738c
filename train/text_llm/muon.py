"""Muon (orthogonalised updates) for weight matrices and AdamW for the rest, in one optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# The quintic Newton–Schulz iteration of K. Jordan et al., "Muon" (2024), and the step size of J. Liu et al., "Muon is
# Scalable for LLM Training" (arXiv 2502.16982), which makes its updates as large as AdamW's.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_N_ITERATIONS = 5
_ADAMW_RMS = 0.2


class MuonAdamW(torch.optim.AdamW):
    """Muon for matrices, AdamW for everything else, in one optimiser.

    `torch.optim.Muon` iterates in bfloat16, which is several times slower than float32 on a CPU, and handles one
    matrix at a time; here, matrices of one shape are iterated together.

    Args:
        matrices: Weight matrices, without embeddings and output layers.
        others: All other parameters.
        lr: Learning rate of both.
        momentum: Muon's momentum.
        **options: Options of AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        **options: Any,
    ) -> None:
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        self.momentum = momentum
        super().__init__(groups, lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters that have gradients."""
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self._step_matrices([p for p in group["params"] if p.grad is not None], group["lr"])
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _step_matrices(self, parameters: list[nn.Parameter], lr: float) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(0.0)  # AdamW expects it when a state is loaded
            state["step"] += 1
            state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(state["momentum"], self.momentum)  # Nesterov
            wide = update.T if update.shape[0] > update.shape[1] else update
            by_shape.setdefault(tuple(wide.shape), []).append((parameter, wide))
        for shape, items in by_shape.items():
            scale = -lr * _ADAMW_RMS * max(shape) ** 0.5
            for (parameter, _), update in zip(
                items, orthogonalize(torch.stack([u for _, u in items])), strict=True
            ):
                parameter.add_(update.T if update.shape != parameter.shape else update, alpha=scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Make all singular values of each matrix nearly 1.

    Args:
        matrices: (n, rows, columns) with rows <= columns.

    Returns:
        (n, rows, columns) with the same singular vectors and singular values between about 0.7 and 1.2.
    """
    a, b, c = _QUINTIC
    result = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_N_ITERATIONS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    orthogonal: Tensor = result
    return orthogonal
