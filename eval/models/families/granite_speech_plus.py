"""Granite Speech Plus: prompted as Granite Speech."""

from eval.models.families.granite_speech import FAMILY as GRANITE_SPEECH

FAMILY = GRANITE_SPEECH
