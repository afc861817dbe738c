"""Applies a chat template to conversations: gives the text, and says which parts of it are answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from alm.common.errors import UserError
from alm.templates.render import render

Message = dict[str, Any]
Part = tuple[str, bool]
"""A piece of a rendered conversation, and whether it is an answer."""

# Private-use characters: they replace the answers while a rendered template is split into its parts.
_MARK, _MARKS = "\ue000{}\ue001", re.compile("\ue000\\d+\ue001")

DEFAULTS: dict[str, Any] = {
    "tools": None,
    "documents": None,
    "enable_thinking": False,  # Qwen3, SmolLM3: answers are not preceded by hidden reasoning
}
"""Variables that every template gets."""


class ChatTemplate:
    """A Jinja template with the special tokens of the LLM's tokenizer.

    Args:
        text: The template.
        special_tokens: The tokenizer's special tokens by name, which the template may use.
        added_tokens: Tokens that were added to the tokenizer's vocabulary, as text.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, Any], added_tokens: Sequence[str]) -> None:
        self.text = text
        self.special_tokens = dict(special_tokens)
        self.added_tokens = sorted(added_tokens, key=len, reverse=True)

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """The text of a conversation whose contents are strings.

        Raises:
            UserError: The template is broken or refuses the messages.
        """
        if not messages:
            return ""
        values = {**DEFAULTS, **self.special_tokens, **variables}
        return render(self.text, messages=messages, add_generation_prompt=add_generation_prompt, **values)

    @cached_property
    def end_of_turn(self) -> str:
        """Text that the template adds after an answer, such as `<|im_end|>`; else the end-of-text token."""
        turns = [
            {"role": role, "content": content}
            for turn in range(2)
            for role, content in (("user", "x"), ("assistant", _MARK.format(turn)))
        ]
        around = _MARKS.split(self.render(turns))
        middle, last = around[-2:] if len(around) == 3 else (around[-1], around[-1])
        # Phi-3 adds an end of text after the last turn: use only text that also follows an earlier answer.
        added = "|".join(map(re.escape, self.added_tokens))
        end = ""
        for piece in re.split(f"({added})", last) if added else [last]:
            if not middle.startswith(end + piece):
                break
            end += piece
        return end.rstrip() or self.special_tokens.get("eos_token") or ""

    def parts(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[Part]:
        """Render a conversation and split it into parts.

        An answer begins where the generation prompt ends. It ends with the end-of-turn token, so that the
        model learns to stop.

        Args:
            messages: The turns; their contents are strings.
            add_generation_prompt: End with the header of an assistant turn.
            continue_final_message: End inside the last answer, which the model then continues.
            **variables: Further variables of the template.

        Raises:
            UserError: The template does not render the answers unchanged and in order.
        """
        full = self.render(messages, add_generation_prompt, **variables)
        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        marked = [dict(message) for message in messages]
        for turn in turns:
            marked[turn]["content"] = _MARK.format(turn)
        around = _MARKS.split(self.render(marked, add_generation_prompt, **variables))
        parts: list[Part] = []
        done = place = 0
        for turn, before, after in zip(turns, around, around[1:], strict=False):
            content = messages[turn]["content"]
            start = place + len(before)
            shown = [text for text in (content, content.strip()) if full.startswith(text + after, start)]
            if len(around) != len(turns) + 1 or not shown or not full.startswith(before, place):
                raise UserError(
                    f"the chat template changes or drops turn {turn}; set another chat_template, for example "
                    "'plain'"
                )
            place = start + len(shown[0])
            end = self.end_of_turn if after.startswith(self.end_of_turn) else ""
            prompt = self.render(messages[:turn], True, **variables)
            if done <= len(prompt) <= start and full.startswith(prompt):
                start = len(prompt)  # the model writes the space in "Assistant: yes"
            parts.append((full[done:start], False))
            if continue_final_message and turn == len(messages) - 1:
                return [part for part in [*parts, (full[start:place].rstrip(), True)] if part[0]]
            parts.append((full[start:place] + (end or self._missing_end(after)), True))
            done = place + len(end)
        if continue_final_message:
            raise UserError(
                "continue_final_message: the last message is not an answer; use add_generation_prompt"
            )
        return [(text, answer) for text, answer in [*parts, (full[done:], False)] if text]

    def _missing_end(self, after: str) -> str:
        """The end-of-text token, if the template adds no end after the last answer."""
        return "" if after.strip() else self.end_of_turn
