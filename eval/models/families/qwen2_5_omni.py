"""Qwen2.5-Omni: only its thinker is loaded, which answers in text; the talker and its vocoder are not."""

from eval.models.families import Family

FAMILY = Family(architecture="Qwen2_5OmniThinkerForConditionalGeneration")
