"""Conversations of vLLM's chat endpoints as the token ids that the model was trained on.

vLLM would put clips before the text, with line breaks between, wherever a chat template takes strings. Here our own
processor renders them: clips stand where the user put them, and answers are tokenised as in training.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import parse_chat_messages, parse_chat_messages_async
from vllm.renderers.hf import HfRenderer
from vllm.utils.async_utils import make_async

from alm.common.errors import CheckpointError
from alm.serving.vllm.processing import check_markers, request_errors
from alm.serving.vllm.settings import processor_of

# Arguments of `apply_chat_template` that say how the text is made into tokens: that is settled here.
_SETTLED = ("tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length")


class ConversationRenderer(HfRenderer):  # type: ignore[misc]
    """vLLM's renderer, with the conversation rendered by the model's processor."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self.processor = processor_of(config.model_config)
        self._one_at_a_time = Lock()  # a fast tokenizer refuses to be used by two threads
        self._prompt_async = make_async(self._prompt, executor=self._executor)
        known = config.model_config.try_get_generation_config().get("eos_token_id", [])
        known = {*(known if isinstance(known, list) else [known]), self.get_eos_token_id()}
        if missing := sorted(set(self.processor.stop_token_ids) - known):
            raise CheckpointError(
                f"{config.model_config.model}/generation_config.json: eos_token_id lacks {missing[0]}, the end of a "
                "turn in the chat template, so that answers would not end; write the model again with 'alm export'"
            )

    def render_messages(self, messages: Any, params: Any) -> Any:
        """A conversation and its prompt."""
        conversation, clips, ids = parse_chat_messages(messages, self.model_config, **_parsing(params))
        return conversation, self._with_clips(self._prompt(conversation, clips, params), clips, ids)

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        """A conversation and its prompt; rendered in a thread."""
        conversation, clips, ids = await parse_chat_messages_async(
            messages, self.model_config, **_parsing(params)
        )
        prompt = await self._render_with_timeout(self._prompt_async(conversation, clips, params))
        return conversation, self._with_clips(prompt, clips, ids)

    def _prompt(self, conversation: Any, clips: Any, params: Any) -> list[int]:
        variables = params.get_apply_chat_template_kwargs()
        for key in _SETTLED:
            variables.pop(key, None)
        n_clips = len((clips or {}).get("audio", ()))
        # OpenAI's newer name of the system's role, which few templates know
        messages = [{**one, "role": "system"} if one["role"] == "developer" else one for one in conversation]
        with self._one_at_a_time, request_errors("messages"):
            return self.processor.prompt_ids(messages, range(n_clips), **variables)

    @staticmethod
    def _with_clips(ids: list[int], clips: Any, uuids: Any) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if clips is not None:
            prompt["multi_modal_data"] = clips
        if uuids is not None:
            prompt["multi_modal_uuids"] = uuids
        return prompt

    def _process_tokens(self, prompt: Any, **options: Any) -> Any:
        self._check_text(prompt)
        return super()._process_tokens(prompt, **options)

    async def _process_tokens_async(self, prompt: Any, **options: Any) -> Any:
        self._check_text(prompt)
        return await super()._process_tokens_async(prompt, **options)

    def _check_text(self, prompt: Any) -> None:
        if not prompt.get("multi_modal_data"):
            check_markers(prompt["prompt_token_ids"], 0, self.processor)
        elif extra := sorted(prompt["multi_modal_data"].keys() - {"audio"}):
            raise VLLMValidationError(
                f"{extra[0]} is not supported: the model takes text and audio", parameter="messages"
            )


def _parsing(params: Any) -> dict[str, Any]:
    return {
        "content_format": "openai",  # contents as lists of items, in their order
        "media_io_kwargs": params.media_io_kwargs,
        "mm_processor_kwargs": params.mm_processor_kwargs,
    }
