"""Qwen3-Omni: its thinker alone is asked, which answers in text; the talker and its vocoder are not loaded."""

from eval.models.families import Family

FAMILY = Family(architecture="Qwen3OmniMoeThinkerForConditionalGeneration")
