"""`alm init`: a commented config to start from."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command

KINDS = ("pretrain", "align", "instruct", "finetune", "eval", "ablate")

_FREE = {"encoder": "frozen", "projector": "train", "llm": "frozen"}
_OPTIM = {"lr": 1e-3, "steps": 2000, "batch_size": 16, "warmup_steps": 100}
_RUN = {"seed": 0, "precision": "fp32", "save_every": 500}

STARTS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "stage": "pretrain",
        "out": "runs/pretrain",
        "encoder": "audiomosaic",
        "encoder_options": {
            "spec_size": [512, 128], "embed_dim": 96, "depth": 3, "num_heads": 3, "project_embedding_dim": 64,
            "drop_path_rate": 0.0,
        },
        "data": {"train": ["my-recordings"], "workers": 2},
        "optim": _OPTIM | {"batch_size": 32, "weight_decay": 0.05},
        "run": _RUN,
        "contrastive": {"mask_layout": "time_frequency", "time_ratio": 0.6, "freq_ratio": 0.4, "temperature": 0.1},
    },
    "align": {
        "stage": "align",
        "out": "runs/align",
        "encoder": "runs/pretrain/encoder",
        "projector": "mlp",
        "projector_options": {"stack": 2},
        "llm": "quickstart/llm",
        "policy": _FREE,
        "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"], "cache_features": True},
        "optim": _OPTIM,
        "run": _RUN,
    },
    "instruct": {
        "stage": "instruct",
        "out": "runs/instruct",
        "model": "runs/align/model",
        "policy": _FREE | {"llm": "lora", "llm_lora": {"r": 16, "alpha": 32}},
        "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"]},
        "optim": _OPTIM | {"lr": 2e-4},
        "run": _RUN | {"eval_every": 500, "patience": 3},
    },
    "finetune": {
        "stage": "finetune",
        "out": "runs/finetune",
        "encoder": "runs/pretrain/encoder",
        "data": {"train": ["labels.csv"], "test": ["test-labels.csv"]},
        "optim": {"batch_size": 32},
        "run": {"seed": 0},
        "finetune": {"mode": "linear", "solver": "logistic", "controls": True, "baseline": True},
    },
    "eval": {
        "benchmark": "manifest",
        "data": "test.jsonl",
        "batch_size": 16,
        "controls": ["none", "no_audio", "other_clip"],
        "answer_by": "generate",
    },
    "ablate": {
        "out": "ablations/mine",
        "baseline": "audiomosaic",
        "floor": "random",
        "inputs": {
            "train": ["train.jsonl"], "validation": ["validation.jsonl"], "test": "test.jsonl", "llm": "quickstart/llm",
        },
        "stages": {
            "align": {
                "projector": "mlp", "projector_options": {"stack": 2}, "policy": _FREE,
                "data": {"cache_features": True}, "optim": _OPTIM,
            },
        },
        "axes": {
            "encoder": {
                "audiomosaic": {"align": {"encoder": "runs/pretrain/encoder"}},
                "logmel": {"align": {"encoder": "logmel"}},
            },
        },
        "references": {"random": {"align": {"encoder": "random"}}},
        "seeds": [0, 1, 2],
    },
}  # fmt: skip
"""The values of each config; the comments are those of the keys."""

_COMMANDS = {"eval": "alm eval {} --model MODEL_DIR", "ablate": "alm ablate {} --dry-run"}


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "init",
        help="write a commented config to start from",
        description=(
            "Write a config of one kind, with a comment above every key. Replace the paths of data, encoder and LLM by "
            "yours before you run it; alm config check checks it."
        ),
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=f"one of {', '.join(KINDS)}")
    parser.add_argument("--out", metavar="FILE", help="the file to write, or - for stdout (KIND.yaml)")
    parser.add_argument(
        "--all", action="store_true", help="write every key, also those left at their default"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from alm.common.errors import ConfigError
    from alm.common.files import make_folder, write_text_atomic

    text = starting_config(arguments.kind, whole=arguments.all)
    if arguments.out == "-":
        print(text, end="")
        return
    out = Path(arguments.out or f"{arguments.kind}.yaml")
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out}: exists already; give --force to replace it, or another --out")
    make_folder(out.parent, ConfigError)
    write_text_atomic(out, text)
    print(f"wrote {out}; edit it, then run: {_command(arguments.kind, str(out))}")


def starting_config(kind: str, whole: bool = False) -> str:
    """The commented YAML of one kind.

    Args:
        kind: One of `KINDS`.
        whole: Write every key.
    """
    from alm.configs.commented import commented_yaml

    head = f"# {_command(kind, f'{kind}.yaml')}\n"
    if kind in _COMMANDS:
        from train.config_kinds import ablation_class, eval_class

        load = eval_class if kind == "eval" else ablation_class
        return head + commented_yaml(load(), STARTS[kind], whole=whole)
    from train.settings import TrainSettings
    from train.stages.training import stages_of_key

    return head + commented_yaml(
        TrainSettings, STARTS[kind], whole=whole, takes=lambda key: kind in stages_of_key(key)
    )


def _command(kind: str, path: str) -> str:
    return _COMMANDS.get(kind, "alm train {} --dry-run").format(path)


COMMAND = Command(add, order=2)
