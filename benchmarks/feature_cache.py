"""Alignment steps with and without kept features of the frozen encoder, and how soon a second run starts.

    python -m benchmarks.feature_cache

The encoder is AudioMosaic's ViT-B/16 (random weights) over clips of ten seconds; the LLM a Llama of 4 layers and 512
wide. Steps are forward, backward and AdamW on the projector, as stage align does them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alm.data.records import AudioRef
from alm.model import AudioLanguageModel
from alm.policy import Policy
from benchmarks.measure import Row, alternate, main, seconds, spread
from encoders import AudioEncoder, encoder_class
from encoders.audio import save_wav
from train.tune.conversations import ClipFeatures, ClipWaveforms

BASE = {"spec_size": [1024, 128], "embed_dim": 768, "depth": 12, "num_heads": 12}
_VOCABULARY, _PROMPT, _ANSWER, _AUDIO_ID = 4000, 20, 20, 4000


def run(quick: bool) -> list[Row]:
    """Steps in turn with both sources of audio, then both starts."""
    torch.manual_seed(0)
    kind = encoder_class("audiomosaic")
    encoder = kind.tiny() if quick else kind(kind.config_class().replace(**BASE))
    n_clips, batch, rounds = (4, 2, 1) if quick else (16, 2, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = _clips(folder, n_clips, 1.0 if quick else 10.0)
        return [
            _steps(encoder, clips[:batch], rounds),
            _starts(encoder, clips, folder / "kept", max(1, rounds - 1)),
        ]


def _clips(folder: Path, n_clips: int, length_s: float) -> list[AudioRef]:
    rng = np.random.default_rng(0)
    refs = [AudioRef(folder / f"{i}.wav") for i in range(n_clips)]
    for ref in refs:
        save_wav(ref.path, 0.1 * rng.standard_normal(int(16000 * length_s)), 16000)
    return refs


def _kept(encoder: AudioEncoder, clips: list[AudioRef], folder: Path | None) -> ClipFeatures:
    return ClipFeatures(encoder, clips, 4.0, torch.device("cpu"), folder, batch_size=4)


def _steps(encoder: AudioEncoder, clips: list[AudioRef], rounds: int) -> Row:
    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
    )  # fmt: skip
    model = AudioLanguageModel.assemble(encoder, LlamaForCausalLM(config), "mlp")
    model.config.audio_token_id = _AUDIO_ID
    model.set_policy(Policy())
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    live, kept = ClipWaveforms(encoder.config.sample_rate), _kept(encoder, clips, None)
    losses: dict[str, float] = {}

    def step(source: ClipWaveforms, name: str) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(trainable, lr=0.0)  # the same losses in every round

        def work() -> None:
            loss = model(**_batch(model, source, clips)).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses[name] = float(loss.detach())

        return work

    pair = alternate(step(kept, "kept"), step(live, "live"), rounds)
    apart = abs(losses["kept"] - losses["live"])
    return Row(
        "feature_cache",
        f"align step, {len(clips)} clips of ten seconds, ViT-B/16, Llama of 4 x 512",
        spread(pair.ours, 1.0, "s"),
        spread(pair.reference, 1.0, "s"),
        str(pair),
        ">= 3x",
        f"kept features against the live encoder; losses {apart:.1e} apart",
    )


def _batch(model: Any, source: ClipWaveforms, clips: list[AudioRef]) -> dict[str, torch.Tensor]:
    """A batch as a collator makes it, with prompt, audio and answer of every clip, but with fixed token ids."""
    lengths, audio = source.collate(clips)
    encoder, projector = model.encoder.config, model.projector.config
    n_audio = [projector.n_tokens_for(encoder.n_time_for(length)) for length in lengths]
    rng = np.random.default_rng(0)
    rows = [
        [*rng.integers(5, _VOCABULARY, _PROMPT), *[_AUDIO_ID] * n, *rng.integers(5, _VOCABULARY, _ANSWER)]
        for n in n_audio
    ]
    ids = torch.tensor(np.array(rows))
    labels = ids.clone()
    labels[:, :-_ANSWER] = -100
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "audio_index": torch.arange(len(clips)),
        **audio,
    }


def _starts(encoder: AudioEncoder, clips: list[AudioRef], folder: Path, rounds: int) -> Row:
    first = [seconds(lambda: _kept(encoder, clips, folder))]
    pair = alternate(
        lambda: _kept(encoder, clips, folder), lambda: _kept(encoder, clips, None), rounds, warm_up=False
    )
    return Row(
        "feature_cache",
        f"start of a run over {len(clips)} clips",
        spread(pair.ours, 1.0, "s"),
        spread(pair.reference, 1.0, "s"),
        str(pair),
        ">= 5x",
        f"found in the folder against computed; the run that filled it took {spread(first, 1.0, 's')}",
    )


if __name__ == "__main__":
    main(run, __doc__)
