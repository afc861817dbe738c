"""`alm ask` and `alm caption`: a model's answers about audio files."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

from alm.commands import Command, add_trust_option, number, positive, seconds, seed

EXIT_SOME_FAILED = 1
_BATCHES_AT_ONCE = 8  # files read ahead, so that clips of similar length share a batch


def add(commands: Any) -> None:
    """Add the subcommands."""
    _add_ask(commands)
    _add_caption(commands)


def _add_ask(commands: Any) -> None:
    parser = commands.add_parser(
        "ask",
        help="ask a model a question about audio files",
        description="Ask one question about each recording, of any format, rate and channel count.",
    )
    _add_model_and_audio(parser)
    parser.add_argument("question", metavar="QUESTION", help="what to ask")
    _add_answer_options(parser)
    parser.set_defaults(run=_ask)


def _add_caption(commands: Any) -> None:
    parser = commands.add_parser(
        "caption",
        help="describe audio files",
        description="Write a caption for each recording, of any format, rate and channel count.",
    )
    _add_model_and_audio(parser)
    _add_answer_options(parser)
    parser.set_defaults(run=_caption)


def _add_model_and_audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    parser.add_argument(
        "audio",
        nargs="+",
        metavar="AUDIO",
        help="audio files, addresses (http(s), data:, s3://, gs://, hf://), folders (with all below them), patterns "
        "such as 'a/*.wav', or - for a list on stdin",
    )


def add_audio_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of reading audio; see `encoders.audio.AudioOptions`."""
    parser.add_argument(
        "--channels",
        choices=("mean", "loudest"),
        default="mean",
        help="average the channels, or take the loudest (mean)",
    )
    parser.add_argument(
        "--peak",
        choices=("refuse", "normalise"),
        default="refuse",
        help="float samples far above full scale: refuse the file, or divide by the peak (refuse)",
    )


def _add_answer_options(parser: argparse.ArgumentParser) -> None:
    add_audio_options(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="files per batch (16)")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=64, help="length limit of an answer in tokens (64)"
    )
    parser.add_argument(
        "--first-s", type=seconds, metavar="SECONDS", help="use only the first seconds of longer files (all)"
    )
    parser.add_argument(
        "--max-audio-tokens",
        type=positive,
        metavar="N",
        help="refuse files that take more LLM tokens (no limit)",
    )
    parser.add_argument("--beams", type=positive, default=1, help="beams of beam search (1)")
    parser.add_argument("--temperature", type=number, default=0.0, help="above 0: sample (0, greedy)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of sampling (0)")
    add_trust_option(parser)
    parser.add_argument(
        "--jsonl", action="store_true", help="one JSON object per file instead of a line of text"
    )


def _ask(arguments: argparse.Namespace) -> int:
    from alm.common.errors import UserError

    if os.path.exists(arguments.question):  # False for a question that no file name could be
        raise UserError(
            f"question: '{arguments.question}' is a file; the question comes last, after the audio"
        )
    return _answer(arguments, arguments.question)


def _caption(arguments: argparse.Namespace) -> int:
    from alm.data.records import CAPTION_PROMPTS

    return _answer(arguments, CAPTION_PROMPTS[0])


def _answer(arguments: argparse.Namespace, question: str) -> int:
    """Print one answer per file, in order; a file that cannot be answered is reported, and the others are answered."""
    from alm.commands._garbage import garbage_collection_paused

    with garbage_collection_paused():
        from encoders.audio.options import AudioOptions, applied

    with applied(AudioOptions(arguments.channels, arguments.peak)):
        return _answer_all(arguments, question)


def _answer_all(arguments: argparse.Namespace, question: str) -> int:
    from alm.commands._garbage import garbage_collection_paused
    from alm.common.terminal import progress
    from alm.common.text import json_line, one_line

    trusted = arguments.trust_remote_code
    with garbage_collection_paused():
        from alm.checkpoint import load_processor, resolve

        model_dir = resolve(arguments.model)
        # Before the search for files, so that a broken directory is reported at once.
        processor = load_processor(model_dir, trust_remote_code=trusted)
    processor.max_audio_tokens = arguments.max_audio_tokens or processor.max_audio_tokens
    paths = find_audio(arguments.audio)
    load = cache(partial(_load, model_dir, trusted))  # loads the model when the first file has been read
    options = _decoding(arguments)
    alone = len(paths) == 1
    names = [_short_name(path) for path in paths]
    names = [one_line(name) for name in (names if len(set(names)) == len(names) else paths)]
    failed = []
    empty = 0
    step = arguments.batch_size * _BATCHES_AT_ONCE
    with progress("answer", len(paths), "file") if not alone else nullcontext(_silent) as advance:
        for start in range(0, len(paths), step):
            rows = range(start, min(start + step, len(paths)))
            clips = [partial(_read_clip, paths[i], processor, arguments.first_s) for i in rows]
            named = paths[rows.start : rows.stop]
            results = _answer_some(load, processor, clips, named, question, options, advance)
            for row, (answer, error) in zip(rows, results, strict=True):
                if error is not None:
                    failed.append(error)
                empty += answer == ""
                if arguments.jsonl:
                    outcome = {"answer": answer} if error is None else {"error": error}
                    print(json_line({"audio": paths[row], "question": question, **outcome}))
                elif answer is not None:
                    print(answer if alone else f"{names[row]}: {answer}")
    if empty:
        print(f"{empty} of {len(paths)} answers are empty: the model ended its turn at once, as models trained "
              "for few steps do", file=sys.stderr)  # fmt: skip
    for error in failed:  # after the progress bar has ended
        print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(paths)} files could not be answered", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def _load(model_dir: Path, trusted: bool) -> Any:
    from alm.checkpoint import load_model
    from alm.commands._garbage import garbage_collection_paused
    from encoders.devices import pick_device

    with garbage_collection_paused():
        model: Any = load_model(model_dir, trust_remote_code=trusted)
        return model.to(pick_device())


def _silent(n: int = 1, **shown: object) -> None:
    """Stands in for a progress bar if there is a single file."""


def _decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
        "num_beams": arguments.beams,
    }
    if arguments.temperature > 0:
        torch.manual_seed(arguments.seed)
        options |= {"do_sample": True, "temperature": arguments.temperature}
    return options


def _answer_some(
    load: Callable[[], Any],
    processor: Any,
    readers: Sequence[Callable[[], Any]],
    names: Sequence[str],
    question: str,
    options: dict[str, Any],
    advance: Any,
) -> list[tuple[str | None, str | None]]:
    """For each file, its answer on one line, or the reason why it has no answer."""
    from alm.common.errors import AudioError, StorageError, UserError
    from alm.common.text import one_line
    from alm.generation import generate_answers

    results: list[tuple[str | None, str | None]] = [(None, None)] * len(readers)
    good, clips = [], []
    for row, read in enumerate(readers):
        try:
            clips.append([read()])
            good.append(row)
        except (AudioError, StorageError) as error:
            results[row] = (None, one_line(str(error)))
            advance(1)
    if not clips:
        return results
    model = load()
    turns = [{"role": "user", "content": f"{processor.audio_token}{question}"}]

    def answer(places: Sequence[int]) -> None:
        chosen = [clips[place] for place in places]
        for row, text in generate_answers(
            model, processor, [turns] * len(chosen), chosen, progress=advance, **options
        ):
            results[good[places[row]]] = (" ".join(text.split()), None)

    try:
        answer(range(len(clips)))
    except UserError:  # one file's, such as too long a prompt: the other files are answered
        for place in range(len(clips)):
            if results[good[place]][0] is None:
                try:
                    answer([place])
                except UserError as error:
                    results[good[place]] = (None, f"{names[good[place]]}: {one_line(str(error))}")
                    advance(1)
    return results


def find_audio(words: list[str]) -> list[str]:
    """Find the files that words of a command line name, in order, each once.

    Args:
        words: Files, folders, patterns, or `-` for a list on stdin; a file need not exist.

    Raises:
        UserError: A folder, pattern or list names no file.
    """
    from alm.common.errors import UserError
    from alm.common.text import one_line
    from encoders.audio.formats import AUDIO_SUFFIXES, has_audio_suffix, search
    from encoders.audio.urls import is_url

    found: list[str] = []
    for word in words:
        skipped = ""
        if word == "-":
            new = _names_on_stdin()
        elif is_url(word):
            new = [word]
        elif os.path.isdir(word) and not has_audio_suffix(word):
            folder = search(word)
            new, skipped = [str(path) for path in folder.audio], folder.note()
            if skipped:
                print(f"{one_line(word)}: skipped {skipped}", file=sys.stderr)
        elif glob.has_magic(word) and not os.path.exists(word):
            new = sorted(glob.glob(word, recursive=True))
        else:
            new = [word]
        if not new:
            raise UserError(
                f"{word}: no audio files there; give files, folders or patterns ({' '.join(AUDIO_SUFFIXES)})"
            )
        found += new
    return list(dict.fromkeys(found))


def _names_on_stdin() -> list[str]:
    """File names, one per line; they may be bytes that are not UTF-8, as in the file system."""
    raw = getattr(sys.stdin, "buffer", None)
    lines = [os.fsdecode(line) for line in raw] if raw is not None else list(sys.stdin or ())
    return [name for line in lines if (name := line.rstrip("\r\n")).strip()]


def _short_name(path: str) -> str:
    """A file's name without its folder; an address without credentials, query and inline data."""
    from encoders.audio.urls import is_url, url_name

    return url_name(path) if is_url(path) else Path(path).name


def _read_clip(path: str, processor: Any, first_s: float | None) -> Any:
    """The waveform of a file or of its first seconds; too long a file is refused before it is decoded."""
    from alm.common.errors import AudioError
    from encoders.audio import decode_audio, fetch_audio, is_url, load_audio, read_header, url_name

    name = url_name(path) if is_url(path) else path

    def check(n_samples: int) -> None:
        try:
            processor.n_audio_tokens(n_samples)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error

    source = fetch_audio(path) if is_url(path) else path
    header = read_header(source, name)
    if header.exact:
        seconds = header.seconds if first_s is None else min(first_s, header.seconds)
        check(round(seconds * processor.sample_rate))
    if isinstance(source, bytes):
        clip = decode_audio(source, name, processor.sample_rate, None, first_s)
    else:
        clip = load_audio(source, processor.sample_rate, None, first_s)
    check(len(clip))
    return clip


COMMAND = Command(add, order=8)
