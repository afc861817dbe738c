"""Loading an encoder from a name, a directory, a weights file, or an audio-language model directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from alm.common.errors import ConfigError
from encoders import AudioEncoder, load_encoder
from encoders.base import read_config
from encoders.registry import named_class


def load_any_encoder(source: str, *, trust_remote_code: bool = False, **options: Any) -> AudioEncoder:
    """Load an encoder, also from inside an audio-language model directory.

    Args:
        source: An encoder's name, Python file, directory, weights file or hub id, or a model directory.
        trust_remote_code: Run Python code that comes with the LLM of a model directory.
        **options: As for `encoders.load_encoder`, for example `model_class`, `n_frames`, `layer`.

    Returns:
        The encoder. One without weights gets the same random ones every time (seed 0), and a note on stderr.

    Raises:
        ConfigError: Unknown name or option, or options for a model directory, whose encoder is fixed.
        CheckpointError: Weights that are missing or do not fit.
    """
    found = named_class(source)
    if found is not None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if source.endswith(".py"):
                untrained = found(found.config_class.from_dict(options, where=f"encoder {source!r}"))
            else:
                untrained = load_encoder(source, **options)
        if next(untrained.parameters(), None) is not None:
            print(f"{source}: untrained weights (seed 0); for trained ones name a directory", file=sys.stderr)
        return untrained
    if not _is_model(Path(source)):
        return load_encoder(source, **options)
    if options:
        raise ConfigError(
            f"{source}: is an audio-language model directory, whose encoder is fixed; remove the encoder options "
            f"({', '.join(options)})"
        )
    import alm

    model, _ = alm.load(source, trust_remote_code=trust_remote_code)
    encoder: AudioEncoder = model.encoder
    return encoder


def _is_model(folder: Path) -> bool:
    """Whether a folder holds an audio-language model's config.json."""
    if not (folder / "config.json").is_file():
        return False
    try:
        return read_config(folder).get("model_type") == "audio_language"
    except ConfigError:
        return False  # the encoder's loader reports what is wrong with it
