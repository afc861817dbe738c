"""Granite Speech: its chat template is the tokenizer's and takes contents as text, with a token per recording.

Its encoder reads the padding of shorter recordings too, so only recordings of one length share a batch.
"""

from collections.abc import Sequence
from typing import Any

from alm.data.records import AUDIO_MARKER
from eval.models.base import Prompt
from eval.models.families import Family


def _inputs(processor: Any, prompts: Sequence[Prompt]) -> Any:
    processor.tokenizer.padding_side = "left"
    template = processor.chat_template or processor.tokenizer.chat_template
    texts = [
        processor.tokenizer.apply_chat_template(
            [
                {**turn, "content": turn["content"].replace(AUDIO_MARKER, processor.audio_token)}
                for turn in prompt.messages
            ],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
        for prompt in prompts
    ]
    clips = [clip for prompt in prompts for clip in prompt.clips()]
    bos = processor.tokenizer.bos_token
    return processor(
        text=texts,
        audio=clips or None,
        padding=True,
        return_tensors="pt",
        add_special_tokens=bos is None or not texts[0].startswith(bos),
    )


FAMILY = Family(_inputs, equal_lengths=True)
