"""`alm embed`: what an encoder makes of audio files, as numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alm.commands.ask import _positive, find_audio

if TYPE_CHECKING:
    from encoders import AudioEncoder


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "embed",
        help="write clip and frame embeddings of audio files",
        description=(
            "Write an .npz with: files (n,), clip (n, D'), the encoder's feature of each clip; frames (total, D), "
            "its tokens averaged over frequency, end to end; frame_times_s (total,), the middle of each frame; "
            "offsets (n + 1,), so that file i has frames[offsets[i]:offsets[i + 1]]."
        ),
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="encoder directory, hub id, name or file, or audio-language model directory",
    )
    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="audio files, folders, patterns, or - for stdin"
    )
    parser.add_argument("--out", required=True, metavar="X.npz", help="where to write")
    parser.add_argument("--batch-size", type=_positive, default=16, help="files per batch (16)")
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace) -> None:
    import numpy as np

    from alm.common.errors import AudioError, UserError
    from alm.common.progress import progress
    from encoders.audio import load_audio

    out = Path(arguments.out)
    if out.suffix != ".npz" or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a name ending in .npz in a folder that exists")
    files = find_audio(arguments.audio)
    encoder = load_any_encoder(arguments.model)
    config = encoder.config

    def read(path: str) -> np.ndarray:
        wave = load_audio(path, config.sample_rate)
        try:
            config.n_time_for(len(wave))
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from error
        return wave

    clips: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    with progress("embed", len(files), "file") as advance:
        for start in range(0, len(files), arguments.batch_size):
            batch = [read(path) for path in files[start : start + arguments.batch_size]]
            for clip, rows in _embeddings(encoder, batch):
                clips.append(clip)
                frames.append(rows)
            advance(len(batch))
    sizes = [len(rows) for rows in frames]
    times = [(np.arange(size) + 0.5) / config.frame_rate_hz for size in sizes]
    try:
        np.savez(
            out,
            files=np.array(files),
            clip=np.stack(clips),
            frames=np.concatenate(frames),
            frame_times_s=np.concatenate(times),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
        )
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    print(
        f"{out}: {len(clips)} clips of {clips[0].shape[0]} numbers, {sum(sizes)} frames of {frames[0].shape[1]}"
    )


def _embeddings(encoder: AudioEncoder, waveforms: list[Any]) -> list[tuple[Any, Any]]:
    """Per clip its feature (D',) and its frames (n_time, D), as numpy arrays."""
    import torch

    from alm.generation import pick_device
    from encoders.audio import pad_batch

    device = pick_device()
    padded, lengths = pad_batch(waveforms)
    with torch.no_grad():
        out = encoder.eval().to(device)(padded.to(device), lengths)
    rows = out.tokens.unflatten(1, out.grid).mean(dim=2).float().cpu().numpy()  # (B, n_time, D)
    steps = out.mask.unflatten(1, out.grid)[:, :, 0].sum(dim=1).tolist()
    features = out.clip_features().float().cpu().numpy()
    return [(feature, row[:n]) for feature, row, n in zip(features, rows, steps, strict=True)]


def named_class(source: str) -> type[AudioEncoder] | None:
    """The class that an encoder's name or file stands for; None for what has weights."""
    from encoders.registry import ENCODERS, encoder_class, list_encoders

    if source.endswith(".py"):
        return ENCODERS.load_file(source)
    return encoder_class(source) if source in list_encoders() else None


def load_any_encoder(source: str) -> AudioEncoder:
    """The encoder of that name, file or directory, or the one inside an audio-language model directory.

    One without weights is the same every time, and stderr says that it is untrained.
    """
    import json
    import sys

    import torch

    from encoders import load_encoder

    found = named_class(source)
    if found is not None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            untrained = found(found.config_class.from_dict({}, where=f"encoder {source!r}"))
        if next(untrained.parameters(), None) is not None:
            print(f"{source}: untrained weights (seed 0); for trained ones name a directory", file=sys.stderr)
        return untrained
    file = Path(source) / "config.json"
    if file.is_file():
        try:
            is_model = json.loads(file.read_text(encoding="utf-8")).get("model_type") == "audio_language"
        except (ValueError, AttributeError):
            is_model = False
        if is_model:
            import alm

            model, _ = alm.load(source)
            encoder: AudioEncoder = model.encoder
            return encoder
    return load_encoder(source)
