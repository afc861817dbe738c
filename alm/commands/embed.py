"""`alm embed`: clip and frame embeddings of audio files."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alm.commands import Command, add_trust_option, positive
from alm.commands.ask import EXIT_SOME_FAILED, add_audio_options, find_audio

if TYPE_CHECKING:
    from encoders import AudioEncoder


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "embed",
        help="write clip and frame embeddings of audio files",
        description=(
            "Write an .npz with: files (n,), clip (n, D'), the encoder's feature of each clip; frames (total, D), "
            "its tokens averaged over frequency, all files concatenated; frame_times_s (total,), the middle of each "
            "frame; offsets (n + 1,), so that file i has frames[offsets[i]:offsets[i + 1]]."
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
    add_audio_options(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="files per batch (16)")
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace) -> int:
    from alm.common.errors import UserError
    from encoders.audio.options import AudioOptions, applied

    out = Path(arguments.out)
    if out.suffix != ".npz" or not os.path.isdir(out.absolute().parent):
        raise UserError(f"--out {out}: expected a name ending in .npz in a folder that exists")
    files = find_audio(arguments.audio)
    with applied(AudioOptions(arguments.channels, arguments.peak)):
        return _embed_files(arguments, files, out)


def _embed_files(arguments: argparse.Namespace, files: list[str], out: Path) -> int:
    import numpy as np

    from alm.common.errors import AudioError, UserError
    from alm.common.files import write_bytes_atomic
    from alm.common.terminal import progress
    from alm.common.text import one_line
    from alm.encoder import load_any_encoder
    from encoders.audio import load_audio

    encoder = load_any_encoder(arguments.model, **encoder_options(arguments))
    config = encoder.config
    failed: list[str] = []
    good: list[str] = []

    def read(path: str) -> np.ndarray | None:
        try:
            wave = load_audio(path, config.sample_rate)
        except AudioError as error:
            failed.append(str(error))
            return None
        try:
            config.n_time_for(len(wave))
        except AudioError as error:
            failed.append(f"{path}: {error}")
            return None
        good.append(path)
        return wave

    clips: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    with progress("embed", len(files), "file") as advance:
        for start in range(0, len(files), arguments.batch_size):
            paths = files[start : start + arguments.batch_size]
            batch = [wave for wave in map(read, paths) if wave is not None]
            for clip, rows in _embeddings(encoder, batch) if batch else ():
                clips.append(clip)
                frames.append(rows)
            advance(len(paths))
    for line in failed:
        print(f"error: {one_line(line)}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(files)} files could not be embedded", file=sys.stderr)
    if not clips:
        return EXIT_SOME_FAILED
    sizes = [len(rows) for rows in frames]
    content = io.BytesIO()
    np.savez(
        content,
        files=np.array(good),
        clip=np.stack(clips),
        frames=np.concatenate(frames),
        frame_times_s=np.concatenate([(np.arange(size) + 0.5) / config.frame_rate_hz for size in sizes]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
    )
    write_bytes_atomic(out, content.getvalue(), UserError)
    print(
        f"{out}: {len(clips)} clips of {clips[0].shape[0]} numbers, {sum(sizes)} frames of {frames[0].shape[1]}"
    )
    return EXIT_SOME_FAILED if failed else 0


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add `--encoder-option KEY=VALUE` and `--trust-remote-code`."""
    add_trust_option(parser)
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
    """Arguments of `alm.encoder.load_any_encoder`: the values of `--encoder-option`, and whether code is trusted.

    Raises:
        ConfigError: An option is not KEY=VALUE with a YAML value.
    """
    from alm.common.settings import apply_overrides

    values: dict[str, Any] = {}
    apply_overrides(values, arguments.encoder_option)
    return values | ({"trust_remote_code": True} if arguments.trust_remote_code else {})


def _embeddings(encoder: AudioEncoder, waveforms: list[Any]) -> list[tuple[Any, Any]]:
    """Per clip its feature (D',) and its frames (n_time, D), as numpy arrays."""
    import torch

    from encoders.audio import pad_batch
    from encoders.devices import pick_device

    device = pick_device()
    padded, lengths = pad_batch(waveforms)
    with torch.no_grad():
        out = encoder.eval().to(device)(padded.to(device), lengths)
    rows = out.tokens.unflatten(1, out.grid).mean(dim=2).float().cpu().numpy()  # (B, n_time, D)
    steps = out.mask.unflatten(1, out.grid)[:, :, 0].sum(dim=1).tolist()
    features = out.clip_features().float().cpu().numpy()
    return [(feature, row[:n]) for feature, row, n in zip(features, rows, steps, strict=True)]


COMMAND = Command(add, order=12)
