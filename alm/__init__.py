"""The audio-language model."""
