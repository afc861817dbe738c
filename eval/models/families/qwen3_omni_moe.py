"""Qwen3-Omni: only its thinker is loaded, which answers in text; the talker and its vocoder are not.

Its encoder reads the padding of shorter recordings too, so only recordings of one length share a batch.
"""

from eval.models.families import Family

FAMILY = Family(architecture="Qwen3OmniMoeThinkerForConditionalGeneration", equal_lengths=True)
