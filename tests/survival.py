"""Tiny runs of every stage, and children that run them: forked off a server that has imported everything.

Children die of real signals, and several of them are the processes of one distributed run.
"""

import json
import multiprocessing
import os
import resource
import signal
import socket
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from alm.common.errors import Preempted, UserError
from alm.common.settings import parse_settings
from alm.data.manifest import write_manifest
from encoders import encoder_class
from encoders.audio import save_wav
from train.engine import checkpoints
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "survival",
        "train.pipeline.runner",
        "train.tune.stage",
        "train.pretrain.stage",
        "peft",
        "deepspeed",
        "transformers.trainer",
    ]
)
TINY = {
    "spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 2, "num_heads": 2,
    "project_embedding_dim": 16, "drop_path_rate": 0.2,
}  # fmt: skip
AUGMENT = {"speed": [0.8, 1.2], "noise_snr_db": [0, 20], "noise_p": 0.5}
N_CLIPS = 7  # with batches of 2, two to a step: 4 passes, 2 steps to an epoch (the last pass holds one clip)


def make_data(folder: Path) -> Path:
    """Seven tones with a caption or a question each."""
    (folder / "audio").mkdir()
    rows = []
    for i in range(N_CLIPS):
        wave = 0.4 * np.sin(2 * np.pi * 200 * 1.5**i * np.arange(11000) / 16000)
        save_wav(folder / "audio" / f"{i}.wav", wave.astype(np.float32), 16000)
        said = {"question": "what is this", "answer": f"tone {i}"} if i % 2 else {"captions": ["a", f"b {i}"]}
        rows.append({"id": f"r{i}", "audio": f"audio/{i}.wav", "clip": str(i), **said})
    write_manifest(folder / "train.jsonl", rows)
    return folder


def make_parts(folder: Path, data: Path, llm: Path, **encoder_options) -> dict[str, Path]:
    """Save the inputs of the stages: an encoder, an LLM, and a model aligned for one step."""
    encoder, kind = folder / "encoder", encoder_class("audiomosaic")
    kind(kind.config_class().replace(**TINY | encoder_options)).save_pretrained(encoder)
    parts = {"encoder": encoder, "llm": llm}
    run = settings("align", data, folder / "aligned", optim={"steps": 1}, encoder=str(encoder), llm=str(llm))
    return parts | {"aligned": run_stage(run)}


def settings(stage: str, folder: Path, out: Path, **values) -> TrainSettings:
    base = {
        "stage": stage,
        "out": str(out),
        "data": {"train": [str(folder / "train.jsonl")]},
        "optim": {"steps": 7, "batch_size": 2, "accumulation": 2, "warmup_steps": 1, "lr": 3e-3},
        "run": {"save_every": 2, "log_every": 3, "seed": 5},
    }
    merged = {k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in values.items()}
    return parse_settings(TrainSettings, {**base, **merged})


def of_stage(stage: str, folder: Path, out: Path, parts: dict, **values) -> TrainSettings:
    """Each stage with all its randomness: augmentations and stochastic depth, or the dropout of both LoRAs."""
    if stage == "pretrain":
        own = {"encoder": "audiomosaic", "encoder_options": TINY}
    elif stage == "align":  # the cache of the frozen encoder's features is on
        own = {"encoder": str(parts["encoder"]), "llm": str(parts["llm"])}
        own["data"] = {"cache_features": True, "augment": {"versions": 3, **AUGMENT}}
        own["policy"] = {"llm": "lora", "llm_lora": {"dropout": 0.3}}
    else:
        lora = {"dropout": 0.3}
        own = {"model": str(parts["aligned"])}
        own["policy"] = {"llm": "lora", "encoder": "lora", "llm_lora": lora, "encoder_lora": lora}
        own["data"] = {"augment": AUGMENT}
    return settings(stage, folder, out, **{**own, **values})


def die_at(event: str, count: int) -> None:
    """Have this process killed when something happens for the n-th time."""
    import train.engine.trainer as trainer

    seen = 0

    def killing(function):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if event == "forward":
        trainer.StageTrainer.training_step = killing(trainer.StageTrainer.training_step)
    elif event == "optimiser file":  # the weights are saved, the optimiser is not
        trainer.torch.save = killing(trainer.torch.save)
    elif event == "flush":  # all files are written, but neither flushed nor renamed
        checkpoints._flush = killing(checkpoints._flush)
    elif event == "remove":  # the new checkpoint exists; an old one is renamed but not removed
        checkpoints.clear_unfinished = killing(checkpoints.clear_unfinished)


def be_rank(rank: int, world: int, port: int) -> None:
    """Make this process one of several, as a launcher does."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})


def child(
    run: TrainSettings, event: str = "", count: int = 0, limit: int | None = None, rank: int = 0, world: int = 1,
    port: int = 0,
) -> None:  # fmt: skip
    """Run a stage; leave with the exit code of the command line."""
    import torch

    torch.set_num_threads(1)
    if world > 1:
        be_rank(rank, world, port)
    if event == "signal":
        signal_at(count)
    elif event == "nan":
        nan_at(count)
    elif event:
        die_at(event, count)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        run_stage(run)
    except Preempted as error:
        os._exit(error.exit_code)
    except UserError as error:
        Path(run.out, f"error{rank or ''}.txt").write_text(str(error))
        os._exit(2)
    os._exit(0)


def nan_at(count: int) -> None:
    """Have the n-th forward pass of this process give a loss that is not a number."""
    import train.engine.trainer as trainer

    inner, seen = trainer.Trainer.compute_loss, 0

    def loss(*args, **kwargs):
        nonlocal seen
        seen += 1
        return inner(*args, **kwargs) * (float("nan") if seen == count else 1.0)

    trainer.Trainer.compute_loss = loss


def signal_at(count: int) -> None:
    import train.engine.trainer as trainer

    inner, seen = trainer.StageTrainer.training_step, 0

    def step(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGUSR1 if count % 2 else signal.SIGTERM)
        return inner(*args, **kwargs)

    trainer.StageTrainer.training_step = step


def run_child(run: TrainSettings, event: str = "", count: int = 0, limit: int | None = None) -> int:
    """The exit code of one process."""
    return exit_codes([FORK.Process(target=child, args=(run, event, count, limit))])[0]


def run_processes(run: TrainSettings, events: tuple[tuple[str, int], ...] = (("", 0), ("", 0))) -> list[int]:
    """The exit codes of the processes of one distributed run, each with what happens to it."""
    port = free_port()
    arguments = [(run, *event, None, rank, len(events), port) for rank, event in enumerate(events)]
    return exit_codes([FORK.Process(target=child, args=each) for each in arguments])


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exit_codes(processes: list) -> list[int]:
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)  # the first run with DeepSpeed builds its extension: minutes on busy cores
    hung = [process for process in processes if process.exitcode is None]
    for process in hung:
        process.kill()
    assert not hung, f"{len(hung)} of {len(processes)} processes hang"
    return [process.exitcode for process in processes]


def weights_of(run: TrainSettings) -> dict:
    return load_file(
        Path(run.out) / ("encoder" if run.stage == "pretrain" else "model") / "model.safetensors"
    )


def assert_bit_equal(run: TrainSettings, reference: TrainSettings) -> None:
    got, wanted = weights_of(run), weights_of(reference)
    assert got.keys() == wanted.keys()
    different = [key for key in wanted if not np.array_equal(got[key].numpy(), wanted[key].numpy())]
    assert not different, f"{len(different)} of {len(wanted)} differ, for example {different[:3]}"

    def losses(of: TrainSettings) -> list:
        lines = [json.loads(line) for line in (Path(of.out) / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    assert [step for step, _ in losses(run)] == [step for step, _ in losses(reference)]
    assert np.allclose([v for _, v in losses(run)], [v for _, v in losses(reference)], rtol=1e-6)
