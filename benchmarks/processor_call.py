"""The processor's call against that of a sibling in transformers: eight clips of five seconds with a question each.

    python -m benchmarks.processor_call

The sibling computes the log-mel of Whisper in its processor; here the encoder does, inside the model. So the call is
also measured with the encoder's front end, and without audio. Both sides have the same tokenizer and the same texts.
Ratios say how many times faster ours is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from benchmarks.generation import noise, small_model
from benchmarks.measure import Row, alternate, main, spread

_CLIPS, _SECONDS = 8, 5.0


def sides() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Our call and the sibling's, by what is measured."""
    model, ours = small_model()
    tokenizer = copy.deepcopy(ours.tokenizer)
    tokenizer.add_tokens(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"], special_tokens=True)
    sibling = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer)
    clips = [noise(_SECONDS, seed) for seed in range(_CLIPS)]
    questions = [f"What is heard in recording {number}, and what comes after it?" for number in range(_CLIPS)]
    own = [f"{ours.audio_token}{question}" for question in questions]
    theirs = [f"<|audio_bos|><|AUDIO|><|audio_eos|>{question}" for question in questions]

    def call() -> Any:
        return ours(text=own, audio=clips, sampling_rate=16000, return_tensors="pt")

    def call_and_front_end() -> Any:
        batch = call()
        with torch.no_grad():
            model.encoder.fbank(batch["input_values"], batch["padding_mask"].sum(dim=1))
        return batch

    def siblings_call() -> Any:
        return sibling(text=theirs, audio=clips, sampling_rate=16000, return_tensors="pt", padding=True)

    return {
        "call": (call, siblings_call),
        "call and front end": (call_and_front_end, siblings_call),
        "call without audio": (
            lambda: ours(text=questions, return_tensors="pt"),
            lambda: sibling(text=questions, return_tensors="pt", padding=True),
        ),
    }


def run(quick: bool) -> list[Row]:
    """Time both sides in turn."""
    rows = []
    for what, (ours, siblings) in sides().items():
        pair = alternate(ours, siblings, 2 if quick else 15)
        rows.append(
            Row(
                "processor",
                f"{what}, {_CLIPS} clips of {_SECONDS:g} s",
                spread(pair.ours, 1e3, "ms"),
                spread(pair.reference, 1e3, "ms"),
                str(pair),
                note="reference: Qwen2AudioProcessor, with its log-mel padded to 30 s",
            )
        )
    return rows


if __name__ == "__main__":
    main(run, __doc__)
