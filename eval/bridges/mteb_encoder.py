"""Any encoder as a model of MTEB, for its audio tasks (MAEB): `mteb.evaluate(MtebEncoder(ENCODER), tasks)`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models.modality_collators import AudioCollator
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.similarity_functions import cos_sim, pairwise_cos_sim

from alm.common.errors import UserError
from alm.encoder import load_any_encoder
from encoders import AudioEncoder
from encoders.audio import pad_batch
from encoders.devices import pick_device


class MtebEncoder:
    """An encoder whose clip features are MTEB's embeddings.

    Args:
        model_name: Encoder directory, weights file, name or hub id, or a model directory; as for `alm embed`.
        revision: Not used: results are cached under a hash of the weights.
        device: Where the encoder is put; None takes an accelerator (CUDA, XPU, NPU, MPS) where there is one.
        **options: Options of the encoder, for example `layer`.
    """

    def __init__(
        self, model_name: str, revision: str | None = None, *, device: str | None = None, **options: Any
    ) -> None:
        self._device = device or pick_device()
        self._encoder = load_any_encoder(model_name, **options).eval().to(self._device)
        self._known: dict[
            bytes, np.ndarray
        ] = {}  # by recording: cross-validation asks for each in every fold
        self.mteb_model_meta = _describe(Path(model_name).expanduser().absolute(), self._encoder, options)

    def encode(self, inputs: Any, **context: Any) -> np.ndarray:
        """The clip features of a data loader of MTEB.

        Args:
            inputs: Yields batches whose `audio` holds recordings.
            **context: MTEB's description of the task; features do not depend on it.

        Returns:
            (clips, D') float32.

        Raises:
            UserError: The task has no recordings.
            AudioError: A recording is too short for the encoder.
        """
        if "audio" not in inputs.dataset.features:
            raise UserError(
                f"task {context['task_metadata'].name}: has no audio; an audio encoder embeds audio alone"
            )
        inputs.collate_fn = AudioCollator(target_sampling_rate=self._encoder.config.sample_rate)
        features = []
        for batch in inputs:
            waveforms = [np.asarray(clip["array"], np.float32).reshape(-1) for clip in batch["audio"]]
            keys = [hashlib.sha256(waveform.tobytes()).digest() for waveform in waveforms]
            new = {key: one for key, one in zip(keys, waveforms, strict=True) if key not in self._known}
            if new:
                padded, lengths = pad_batch(list(new.values()))
                with torch.no_grad():
                    out = self._encoder(padded.to(self._device), lengths)
                self._known |= zip(new, out.clip_features().float().cpu().numpy(), strict=True)
            features.append(np.stack([self._known[key] for key in keys]))
        return np.concatenate(features)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine similarity of all pairs, (n, m)."""
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine similarity of the i-th with the i-th, (n,)."""
        return pairwise_cos_sim(embeddings1, embeddings2)


def _describe(path: Path, encoder: AudioEncoder, options: dict[str, Any]) -> ModelMeta:
    digest = hashlib.sha256(repr((encoder.config, sorted(options.items()))).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return ModelMeta(
        loader=MtebEncoder,
        name=f"{path.parent.name or 'alm'}/{path.name}",
        revision=digest.hexdigest()[:24],
        release_date=None,
        languages=None,
        n_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["audio"],
    )
