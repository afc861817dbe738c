"""``alm ask`` and ``alm caption``: what a model says about audio files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommands."""
    _add_ask(commands)
    _add_caption(commands)


def _add_ask(commands: Any) -> None:
    parser = commands.add_parser(
        "ask",
        help="ask a model a question about audio files",
        description="Ask one question about each file; wav, flac, ogg, mp3 of any rate and channel count.",
    )
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="audio files")
    parser.add_argument("question", metavar="QUESTION", help="what to ask")
    _add_answer_options(parser)
    parser.set_defaults(run=_ask)


def _add_caption(commands: Any) -> None:
    parser = commands.add_parser(
        "caption",
        help="describe audio files",
        description="Write a caption for each file; wav, flac, ogg, mp3 of any rate and channel count.",
    )
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="audio files")
    _add_answer_options(parser)
    parser.set_defaults(run=_caption)


def _positive(text: str) -> int:
    """A number of one or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a whole number of 1 or more")
    return int(text)


def _add_answer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=_positive, default=16, help="files per batch (16)")
    parser.add_argument("--max-new-tokens", type=_positive, default=64, help="longest answer in tokens (64)")


def _ask(arguments: argparse.Namespace) -> None:
    _answer(arguments, arguments.question)


def _caption(arguments: argparse.Namespace) -> None:
    from alm.manifest import CAPTION_PROMPTS

    _answer(arguments, CAPTION_PROMPTS[0])


def _answer(arguments: argparse.Namespace, question: str) -> None:
    """Print one answer per file, in order; every file is read before the model is loaded."""
    import alm
    from alm.checkpoint import load_processor, resolve
    from alm.generation import generate_answers

    model_dir = resolve(arguments.model)
    processor = load_processor(model_dir)
    clips = [_read_clip(path, processor) for path in arguments.audio]
    model, processor = alm.load(model_dir)
    conversations = [[{"role": "user", "content": f"{processor.audio_token}{question}"}] for _ in clips]
    answers = dict(
        generate_answers(
            model,
            processor,
            conversations,
            [[clip] for clip in clips],
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.batch_size,
        )
    )
    for row, path in enumerate(arguments.audio):
        answer = " ".join(answers[row].split())  # one line per file, whatever the model says
        print(f"{Path(path).name}: {answer}" if len(clips) > 1 else answer)


def _read_clip(path: str, processor: Any) -> Any:
    """A file's waveform, long enough for the encoder."""
    from encoders.audio import load_audio
    from encoders.errors import AudioError

    clip = load_audio(path, processor.sample_rate)
    try:
        processor.n_audio_tokens(len(clip))
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    return clip
