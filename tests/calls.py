"""Calls that many tests make."""

from typing import Any


def model_inputs(processor: Any, conversations: Any, audio: Any = None, **options: Any) -> Any:
    """Conversations and their clips as a batch of model inputs."""
    return processor.apply_chat_template(
        conversations, audio=audio, tokenize=True, return_dict=True, **options
    )
