"""Attention heads of widths for which vLLM has no kernel: on CPUs it has them for 32, 64, 80, 96 and so on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from vllm.model_executor.layers.attention import Attention

_WIDEST = 1024


class PaddedAttention(Attention):  # type: ignore[misc]
    """Attention whose heads are padded with zeros to a supported width.

    Zeros add nothing to a product of query and key, and the values behind them are cut off again, so that the result
    is that of the narrow heads; the scale stays theirs. The KV cache is that of the wide heads.
    """

    narrow: int

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        output_shape: Any = None,
        output_dtype: Any = None,
    ) -> Tensor:
        """Attend; query (N, heads * narrow), key and value (N, KV heads * narrow) → (N, heads * narrow)."""
        wide = [
            None if one is None else self._padded(one, count)
            for one, count in ((query, self.num_heads), (key, self.num_kv_heads), (value, self.num_kv_heads))
        ]
        out = super().forward(*wide, output_dtype=output_dtype)
        heads: Tensor = out.view(-1, self.num_heads, self.head_size)
        return heads[..., : self.narrow].flatten(1)

    def _padded(self, values: Tensor, n_heads: int) -> Tensor:
        # (N, heads, wide)
        return functional.pad(values.reshape(-1, n_heads, self.narrow), (0, self.head_size - self.narrow))


def pad_heads(llm: nn.Module) -> None:
    """Let attention layers whose heads no kernel takes compute with wider ones; others stay as they are.

    Args:
        llm: vLLM's model, before memory for the KV cache is taken.
    """
    layers: Iterable[Any] = llm.modules()
    for layer in layers:
        if type(layer) is not Attention or layer.attn_backend.supports_head_size(layer.head_size):
            continue
        narrow = layer.head_size
        wide = next(filter(layer.attn_backend.supports_head_size, range(narrow + 1, _WIDEST)), None)
        if wide is None or layer.head_size_v != narrow:
            continue  # vLLM says which widths it takes
        layer.__class__ = PaddedAttention
        layer.narrow = narrow
        layer.head_size = layer.head_size_v = layer.impl.head_size = wide
