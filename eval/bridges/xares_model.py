"""Any encoder as a model of X-ARES, whose tasks take a file with one class that ends in `Encoder`.

    from eval.bridges.xares_model import XaresModel


    class MosaicEncoder(XaresModel):
        source = "pretrain/encoder"

X-ARES names its folders after the class, so give each encoder a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alm.encoder import load_any_encoder


class XaresModel(nn.Module):
    """An encoder whose frames are averaged over frequency, as `alm embed` writes them.

    X-ARES pads the clips of a batch with zeros and does not say how long they are: the padding of shorter clips is
    encoded with them, as for every encoder there.

    Attributes:
        source: Encoder directory, weights file, name or hub id, or a model directory; as for `alm embed`.
        options: Options of the encoder, for example `layer`.
        sampling_rate: Rate in Hz of the waveforms.
        output_dim: Width of a frame.
        hop_size_in_ms: Time from frame to frame.
    """

    source: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.encoder = load_any_encoder(self.source, **self.options).eval().requires_grad_(False)
        config = self.encoder.config
        self.sampling_rate, self.output_dim = config.sample_rate, config.dim
        self.hop_size_in_ms = 1000 / config.frame_rate_hz

    def forward(self, audio: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            audio: (B, S) float32 in [-1, 1].

        Returns:
            (B, T, D) frames.
        """
        lengths = torch.full((len(audio),), audio.shape[1])
        with torch.no_grad():
            out = self.encoder(audio.float(), lengths)
        frames: Tensor = out.tokens.unflatten(1, out.grid).mean(dim=2)  # (B, T * F, D) -> (B, T, D)
        return frames
