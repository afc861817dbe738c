"""Voxtral: the prompt of its instruct tokenizer, with 375 tokens for every 30 seconds of a recording.

If the processor's tokenizer is that of mistral-common (which must be installed), mistral-common writes the prompt.
Otherwise this module writes it, with the same special tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alm.data.records import AUDIO_MARKER
from eval.models._wav import base64_wav
from eval.models.base import Prompt
from eval.models.families import Family

_WINDOW_FRAMES = 3000  # mel frames of 30 s
_FRAMES_PER_TOKEN = 8
_PADDED = {"padding": True, "padding_side": "left", "return_tensors": "pt"}


def _inputs(processor: Any, prompts: Sequence[Prompt]) -> Any:
    features, tokenizer = processor.feature_extractor, processor.tokenizer
    if type(tokenizer).__name__ == "MistralCommonBackend":

        def item(clip: np.ndarray) -> dict[str, Any]:
            return {"type": "audio", "base64": base64_wav(clip, features.sampling_rate, exact=True)}

        return processor.apply_chat_template(
            [prompt.content(item) for prompt in prompts], processor_kwargs=_PADDED
        )
    windows: list[torch.Tensor] = []
    rows = []
    for prompt in prompts:
        clips = iter(prompt.clips())
        ids = _special(tokenizer, "<s>")
        for turn in prompt.messages:
            before, after = _AROUND[turn["role"]]
            ids += _special(tokenizer, *before)
            for number, text in enumerate(turn["content"].split(AUDIO_MARKER)):
                if number:
                    mel = _windows(features, next(clips))
                    windows.append(mel)
                    n_tokens = len(mel) * _WINDOW_FRAMES // _FRAMES_PER_TOKEN
                    ids += _special(tokenizer, "[BEGIN_AUDIO]", *["[AUDIO]"] * n_tokens)
                ids += (
                    tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
                    if text
                    else []
                )
            ids += _special(tokenizer, *after)
        rows.append(ids)
    inputs = tokenizer.pad({"input_ids": rows}, **_PADDED)
    return {**inputs, **({"input_features": torch.cat(windows)} if windows else {})}


# Special tokens around a turn.
_AROUND = {
    "system": (("[SYSTEM_PROMPT]",), ("[/SYSTEM_PROMPT]",)),
    "user": (("[INST]",), ("[/INST]",)),
    "assistant": ((), ("</s>",)),
}


def _special(tokenizer: Any, *names: str) -> list[int]:
    return list(tokenizer.convert_tokens_to_ids(list(names)))


def _windows(features: Any, clip: np.ndarray) -> torch.Tensor:
    """Mel windows (W, M, T) of a recording, zeros after its end."""
    rate = features.sampling_rate
    mel: torch.Tensor = features(
        clip,
        sampling_rate=rate,
        padding=True,
        truncation=False,
        pad_to_multiple_of=30 * rate,
        return_tensors="pt",
    )["input_features"][0]  # (M, W * T)
    return mel.reshape(len(mel), -1, _WINDOW_FRAMES).transpose(0, 1)


FAMILY = Family(_inputs)
