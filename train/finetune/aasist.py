"""A graph-attention head over an encoder's time-frequency grid, as in AASIST (Jung et al., ICASSP 2022); our own code.

Time steps and frequency rows are the nodes of two graphs. Each graph attends within itself; then both attend to each
other, and a "stack node" attends to all nodes. Two branches do this; the result is their elementwise maximum. Two
things differ from the published model, so that a clip has the same result alone and in a padded batch: nodes that
pooling drops and nodes that cover no audio are masked instead of removed, and nodes are normalised one by one
(LayerNorm) instead of over the batch. The weights of AASIST's own checkpoints do not fit.

Axis letters: B batch, N nodes, T time steps, F frequency rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Graph = tuple[Tensor, Tensor]  # nodes (B, N, D), and a mask of those that exist (B, N)
_HIDDEN = torch.finfo(torch.float32).min


class GraphAttention(nn.Module):
    """Nodes attend to each other by a learned function of their products: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, temperature: float, kinds: int = 1) -> None:
        super().__init__()
        self.temperature, self.kinds = temperature, kinds
        self.pair = nn.Linear(dim, dim)
        # One weight for pairs within each graph and one for pairs across.
        self.weight = nn.Parameter(torch.empty(kinds * (kinds + 1) // 2, dim))
        nn.init.xavier_normal_(self.weight)
        self.heard, self.own = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm, self.act = nn.LayerNorm(dim), nn.SELU()

    def forward(self, nodes: Tensor, exists: Tensor, kind: Tensor | None = None) -> Tensor:
        """Compute new nodes; `kind` (N,) is the graph that each node belongs to."""
        pairs = torch.tanh(self.pair(nodes[:, :, None] * nodes[:, None]))  # (B, N, N, D)
        if kind is None:
            scores = pairs @ self.weight[0]
        else:
            apart = kind[:, None] != kind[None]
            row = torch.where(apart, self.kinds, kind[:, None])  # (N, N): within graph 0, within 1, across
            scores = torch.einsum("bijd,ijd->bij", pairs, self.weight[row])
        scores = (scores / self.temperature).masked_fill(~exists[:, None], _HIDDEN)
        attended = scores.softmax(dim=-1) @ nodes
        out: Tensor = self.act(self.norm(self.heard(attended) + self.own(nodes)))
        return out


class GraphPool(nn.Module):
    """Multiply nodes by a learned score and keep the share of them with the highest scores."""

    def __init__(self, dim: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.score = nn.Linear(dim, 1)

    def forward(self, nodes: Tensor, exists: Tensor) -> Graph:
        """Return the weighted nodes and the mask of those that remain, at least one."""
        score = self.score(nodes).squeeze(-1).sigmoid()  # (B, N)
        rank = score.masked_fill(~exists, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
        keep = (self.share * exists.sum(dim=1)).long().clamp(min=1)
        return nodes * score[..., None], exists & (rank < keep[:, None])


class Exchange(nn.Module):
    """Both graphs attend to each other, and the stack node attends to both."""

    def __init__(self, dim: int, temperature: float) -> None:
        super().__init__()
        self.time, self.freq = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention = GraphAttention(dim, temperature, kinds=2)
        self.pair, self.weight = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)
        self.heard, self.own = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.temperature = temperature

    def forward(self, time: Graph, freq: Graph, stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute new time nodes, frequency nodes and stack node (B, 1, D)."""
        n_time = time[0].shape[1]
        nodes = torch.cat([self.time(time[0]), self.freq(freq[0])], dim=1)
        exists = torch.cat([time[1], freq[1]], dim=1)
        kind = (torch.arange(nodes.shape[1], device=nodes.device) >= n_time).long()
        new = self.attention(nodes, exists, kind)
        scores = self.weight(torch.tanh(self.pair(nodes * stack))).squeeze(-1) / self.temperature
        shares = scores.masked_fill(~exists, _HIDDEN).softmax(dim=-1)
        stack = self.heard(shares[:, None] @ nodes) + self.own(stack)
        return new[:, :n_time], new[:, n_time:], stack


class Branch(nn.Module):
    """Exchange, pool both graphs, and exchange again with a residual connection."""

    def __init__(self, dim: int, temperature: float, share: float) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(1, 1, dim))
        self.first, self.second = (Exchange(dim, temperature) for _ in range(2))
        self.pool_time, self.pool_freq = (GraphPool(dim, share) for _ in range(2))

    def forward(self, time: Graph, freq: Graph) -> tuple[Graph, Graph, Tensor]:
        """Compute both graphs and the stack node (B, 1, D)."""
        new_time, new_freq, stack = self.first(time, freq, self.stack.expand(len(time[0]), -1, -1))
        time, freq = self.pool_time(new_time, time[1]), self.pool_freq(new_freq, freq[1])
        more_time, more_freq, more = self.second(time, freq, stack)
        return (time[0] + more_time, time[1]), (freq[0] + more_freq, freq[1]), stack + more


class Aasist(nn.Module):
    """Graph attention over a grid of tokens, to one feature per clip.

    Args:
        dim: Width of the tokens.
        n_freq: Tokens per time step.
        width: Width of the graphs' nodes.
        share: Share of the nodes that each pooling keeps.
        temperature: Temperature of the attention within a graph; that of the exchange is higher, as published.
        dropout: Dropout of the feature. Nodes have none: it would change which value is the largest.
    """

    def __init__(
        self, dim: int, n_freq: int, width: int = 64, share: float = 0.5, temperature: float = 2.0,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_freq = n_freq
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.row = nn.Parameter(0.02 * torch.randn(1, n_freq, width))  # the frequency of a node
        self.time, self.freq = (GraphAttention(width, temperature) for _ in range(2))
        self.pool_time, self.pool_freq = (GraphPool(width, share) for _ in range(2))
        self.branches = nn.ModuleList(Branch(width, 50 * temperature, share) for _ in range(2))
        self.dropout, self.dim = nn.Dropout(dropout), 5 * width

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the feature: tokens (B, N, D), time-major, and (B, N) bool, True with audio -> (B, 5 * width)."""
        nodes = self.project(tokens).unflatten(1, (-1, self.n_freq))  # (B, T, F, width)
        heard = torch.ones(nodes.shape[:3], dtype=torch.bool, device=nodes.device)
        if mask is not None:
            heard = mask.unflatten(1, (-1, self.n_freq))
        # The value largest in size represents a row or column.
        size = nodes.abs().masked_fill(~heard[..., None], -1.0)
        time = _picked(nodes, size, dim=2), heard.any(dim=2)
        freq = _picked(nodes, size, dim=1) + self.row, heard.any(dim=1)
        time, freq = (self.time(*time), time[1]), (self.freq(*freq), freq[1])
        time, freq = self.pool_time(*time), self.pool_freq(*freq)
        (time_a, freq_a, stack_a), (time_b, freq_b, stack_b) = (
            branch(time, freq) for branch in self.branches
        )
        parts = [
            *_read_out(time_a, time_b),
            *_read_out(freq_a, freq_b),
            torch.maximum(stack_a, stack_b)[:, 0],
        ]
        out: Tensor = self.dropout(torch.cat(parts, dim=-1))
        return out


def _picked(nodes: Tensor, size: Tensor, dim: int) -> Tensor:
    return nodes.gather(dim, size.argmax(dim=dim, keepdim=True)).squeeze(dim)


def _read_out(a: Graph, b: Graph) -> list[Tensor]:
    """Return the largest absolute value and the mean of the branches' maximum, over nodes that either kept."""
    exists = (a[1] | b[1])[..., None]
    nodes = torch.maximum(
        a[0].masked_fill(~a[1][..., None], _HIDDEN), b[0].masked_fill(~b[1][..., None], _HIDDEN)
    ).masked_fill(~exists, 0.0)
    return [nodes.abs().amax(dim=1), nodes.sum(dim=1) / exists.sum(dim=1)]
