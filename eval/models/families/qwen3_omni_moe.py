"""Qwen3-Omni: its thinker alone is asked, which answers in text; the talker and its vocoder are not loaded.

Its encoder reads the padding of shorter recordings too, so only recordings of one length share a batch.
"""

from eval.models.families import Family

FAMILY = Family(architecture="Qwen3OmniMoeThinkerForConditionalGeneration", equal_lengths=True)
