"""`alm embed`: clip and frame embeddings of audio files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alm.commands import Command
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
    add_encoder_options(parser)
    parser.add_argument("--batch-size", type=_positive, default=16, help="files per batch (16)")
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace) -> None:
    import numpy as np

    from alm.common.errors import AudioError, UserError
    from alm.common.progress import progress
    from alm.encoder import load_any_encoder
    from encoders.audio import load_audio

    out = Path(arguments.out)
    if out.suffix != ".npz" or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a name ending in .npz in a folder that exists")
    files = find_audio(arguments.audio)
    encoder = load_any_encoder(arguments.model, **encoder_options(arguments))
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


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add `--encoder-option KEY=VALUE`."""
    parser.add_argument(
        "--encoder-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=(
            "a config value of the encoder, or model_class=NAME for a weights file without a config.json "
            "(model_class=beats); may be repeated"
        ),
    )


def encoder_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of `--encoder-option`.

    Raises:
        ConfigError: An option is not KEY=VALUE with a YAML value.
    """
    from alm.common.settings import apply_overrides

    values: dict[str, Any] = {}
    apply_overrides(values, arguments.encoder_option)
    return values


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


COMMAND = Command(add, order=11)
