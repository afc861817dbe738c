"""The ``alm`` command. Floors are imported only by the subcommand that needs them, so help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0 done, 2 the user's to fix, 130 interrupted)."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives KEY=VALUE words only the first place they stand in; options may come between them.
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from alm.errors import is_users

        if not is_users(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="alm",
        description="Build, train and evaluate audio-language models.",
        epilog="Each subcommand has its own --help.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_quickstart(commands)
    _add_data(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_ask(commands)
    _add_caption(commands)
    _add_list(commands)
    return parser


def _add_quickstart(commands: Any) -> None:
    parser = commands.add_parser(
        "quickstart",
        help="train and score a small audio-language model on this machine, offline",
        description=(
            "Compose sound scenes, train a small LLM that can read, pretrain an AudioMosaic encoder, align it, "
            "tune it, and score it beside its controls. Offline, about ten minutes on two CPU cores. Run again, it "
            "goes on from the last finished stage."
        ),
    )
    parser.add_argument(
        "--out", default="quickstart", metavar="DIR", help="where everything goes (quickstart)"
    )
    parser.add_argument(
        "--data",
        metavar="LABELS.csv",
        help="make the scenes from labelled recordings: a CSV with filename, category, fold (as ESC-50's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and sampling (0)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of configs/quickstart.yaml, for example llm=DIR_OR_HUB_ID or instruct.optim.steps=500",
    )
    parser.set_defaults(run=_quickstart)


def _quickstart(arguments: argparse.Namespace) -> None:
    from train.quickstart import run_quickstart

    run_quickstart(arguments.out, arguments.data, arguments.seed, arguments.overrides)


def _add_data(commands: Any) -> None:
    parser = commands.add_parser("data", help="make data sets", description="Make data sets.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    compose = actions.add_parser(
        "compose",
        help="compose scenes with captions and questions from generated or recorded sounds",
        description=(
            "Compose sound scenes, each with five captions and several questions, into manifests for training, "
            "validation and test. Sounds are generated, or cut from labelled recordings; recordings of held-out "
            "folds are heard in the test split only."
        ),
    )
    compose.add_argument("--out", required=True, metavar="DIR", help="new directory for manifests and audio")
    compose.add_argument("--data", metavar="LABELS.csv", help="labelled recordings: filename, category, fold")
    compose.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    compose.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="composer settings, e.g. n_train=500"
    )
    compose.set_defaults(run=_compose)


def _compose(arguments: argparse.Namespace) -> None:
    from alm.data.compose import ComposeConfig, compose
    from alm.progress import counter, progress
    from alm.settings import load_settings

    overrides = [f"seed={arguments.seed}", *arguments.overrides]
    if arguments.data:
        overrides.insert(0, f"labels_csv={arguments.data}")
    config = load_settings(ComposeConfig, None, overrides)
    with progress("compose", config.n_train + config.n_validation + config.n_test, "scene") as advance:
        compose(config, arguments.out, counter(advance))
    print(f"wrote {arguments.out}/train.jsonl, validation.jsonl, test.jsonl")


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="run one training stage from a config",
        description=(
            "Run one stage (pretrain, align or instruct). A finished run is reused; a changed config runs again. "
            "On several GPUs: torchrun --nproc-per-node N -m alm train CONFIG, or deepspeed --module alm train CONFIG."
        ),
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="see configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for example optim.lr=1e-4 out=runs/a"
    )
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    from alm.settings import load_settings
    from train.settings import TrainSettings
    from train.stages import run_stage

    print(run_stage(load_settings(TrainSettings, arguments.config, arguments.overrides)))


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="score a model on a benchmark, beside its controls",
        description=(
            "Answer every question of a benchmark, and score the answers with 95 %% intervals beside the same "
            "model's scores without audio and with another clip's audio. Interrupted runs go on where they were."
        ),
    )
    parser.add_argument(
        "benchmark", metavar="CONFIG_OR_BENCHMARK", help="a config in configs/eval, or a name"
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="audio-language model directory or hub id"
    )
    parser.add_argument("--out", metavar="DIR", help="where predictions and scores go (MODEL/eval/BENCHMARK)")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for example data=test.jsonl limit=100"
    )
    parser.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> None:
    from eval.benchmarks import run_benchmark

    run_benchmark(arguments.benchmark, arguments.model, arguments.out, arguments.overrides)


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


def _add_list(commands: Any) -> None:
    parser = commands.add_parser(
        "list",
        help="list the encoders, projectors, metrics and benchmarks that are there",
        description="List what can be named in configs.",
    )
    parser.add_argument("what", choices=("encoders", "projectors", "metrics", "benchmarks"))
    parser.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.what == "encoders":
        from encoders import list_encoders as names
    elif arguments.what == "projectors":
        from projectors import list_projectors as names
    elif arguments.what == "metrics":
        from eval.metrics import list_metrics as names
    else:
        from eval.benchmarks import list_benchmarks as names
    print("\n".join(names()))
