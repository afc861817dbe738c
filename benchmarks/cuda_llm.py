"""ViT-B/16 and a 0.5B LLM in bf16 on CUDA: our whole step against a bare loop, and sharded runs that resume.

`python -m benchmarks.cuda` runs it before the pretraining bench. Weights are random, of the sizes of AudioMosaic base
and Qwen2.5-0.5B; a dry run takes tiny ones on CPUs, in fp32.
"""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from alm.common.processes import child_command, child_environment
from alm.common.settings import dump_settings, parse_settings
from alm.data.manifest import read_manifest
from benchmarks.llm_step import QUESTIONS, Sizes, write_records
from benchmarks.measure import Row, spread
from encoders import AudioMosaicEncoder
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from train.data.quarantine import guarded
from train.data.sampling import EpochBatches
from train.engine.trainer import fit
from train.settings import TrainSettings
from train.text_llm.tokenizer import train_tokenizer
from train.tune.conversations import ClipWaveforms
from train.tune.stage import starting_model, training_data

# Qwen2.5-0.5B's config.json
_LLM = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
_TINY = {
    **_LLM, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
_TEXT = ("input_ids", "attention_mask", "labels", "position_ids")  # of a batch; all else is audio
_WARM_UP = 3  # steps that are not timed
SHARDING = {"FSDP2": {"fsdp": {}}, "ZeRO-2": {"deepspeed": "configs/deepspeed/zero2.json"}}


@dataclass
class Bench:
    """The parts on disk, and the device.

    Attributes:
        folder: For parts, clips and runs.
        dry: Tiny sizes on CPUs.
    """

    folder: Path
    dry: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        config = AudioMosaicEncoder.tiny().config if self.dry else AudioMosaicConfig()
        AudioMosaicEncoder(config.replace(drop_path_rate=0.0)).save_pretrained(self.folder / "encoder")
        llm = Qwen2ForCausalLM(Qwen2Config(**(_TINY if self.dry else _LLM)))
        llm.to(torch.float32 if self.dry else torch.bfloat16).save_pretrained(self.folder / "llm")
        train_tokenizer([f"{q} {a}" for q, a in QUESTIONS], 400).save_pretrained(self.folder / "llm")
        sizes = Sizes(clips=4, clip_s=1.0) if self.dry else Sizes(clips=64)
        self.manifest = write_records(self.folder, sizes)

    @property
    def device(self) -> str:
        """Where models are."""
        return "cpu" if self.dry else "cuda"

    def settings(
        self, name: str, llm: str = "full", batch: int = 16, steps: int = 20, **run: Any
    ) -> TrainSettings:
        """The config of a run: a frozen encoder in every step, a trained projector, and the LLM."""
        values = {
            "stage": "instruct",
            "out": str(self.folder / name),
            "encoder": str(self.folder / "encoder"),
            "llm": str(self.folder / "llm"),
            "policy": {"encoder": "frozen", "projector": "train", "llm": llm},
            "data": {"train": [str(self.manifest)], "workers": 0 if self.dry else 4, "group_by_length": True},
            "optim": {"steps": steps, "batch_size": 2 if self.dry else batch, "lr": 1e-5, "warmup_steps": 0},
            "run": {"precision": "fp32" if self.dry else "bf16", "log_every": 10, **run},
        }
        return parse_settings(TrainSettings, values, "benchmarks.cuda")


class _Steps(TrainerCallback):
    """When each step ended."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait, self.ends = wait, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wait()
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of every step after the first ones."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)][_WARM_UP:]


def step_rows(bench: Bench, peak: float, steps: int = 20) -> list[Row]:
    """Our whole step against the LLM alone on the same embeddings.

    Args:
        bench: Parts and device.
        peak: TFLOP/s of a matrix product in the precision of the steps.
        steps: How many.
    """
    wait = (lambda: None) if bench.dry else torch.cuda.synchronize
    settings = bench.settings("step", steps=steps)
    model, processor = starting_model(settings)
    model.set_policy(settings.policy)
    records = read_manifest(bench.manifest)
    dataset, collator = training_data(settings, records, processor, ClipWaveforms(processor.sample_rate))
    order = EpochBatches(dataset, settings.optim.batch_size, settings.run.seed)
    batches = [
        collator([dataset[i] for i in order.batch(number)]) for number in range(min(steps, len(order)))
    ]
    tokens = statistics.mean(int(batch["attention_mask"].sum()) for batch in batches)
    folder = bench.folder / "step"
    folder.mkdir(exist_ok=True)
    _reset(bench)
    watch = _Steps(wait)
    fit(
        settings.loop, model, guarded(dataset, collator.check, settings.data, folder), collator, folder, "instruct",
        callbacks=[watch],
    )  # fmt: skip
    ours, memory = watch.seconds(), _memory(bench)
    model.to(bench.device).train()
    moved = [{key: value.to(bench.device) for key, value in batch.items()} for batch in batches]
    with FlopCounterMode(display=False) as counter, _autocast(bench):
        model(**moved[0]).loss.backward()
    share = counter.get_total_flops() / statistics.median(ours) / 1e12 / peak
    bare, bare_memory = _bare(bench, model, moved, steps, wait)
    times = [statistics.median(side) for side in (ours, bare)]
    return [
        Row(
            "whole step",
            f"{'tiny parts' if bench.dry else 'ViT-B/16 + 0.5B LLM'}, {settings.run.precision}, "
            f"batch {settings.optim.batch_size}, {tokens:.0f} tokens",
            f"{tokens / times[0]:.0f} tokens/s, {spread(ours, 1e3, 'ms')}",
            f"{tokens / times[1]:.0f} tokens/s, {spread(bare, 1e3, 'ms')}",
            f"{times[1] / times[0]:.3f}x",
            ">= 0.952x",
            f"MFU {100 * share:.0f} % of {peak:.3g} TFLOP/s measured; memory {memory} against {bare_memory}; the "
            "reference is the LLM alone on given embeddings, without encoder and loader",
        )
    ]


def _bare(
    bench: Bench, model: Any, batches: Sequence[dict[str, Any]], steps: int, wait: Any
) -> tuple[list[float], str]:
    """Seconds of the steps of `llm(inputs_embeds=..., labels=...)` and AdamW, and its memory."""
    given = []
    with torch.no_grad(), _autocast(bench):
        for batch in batches:
            heard = {key: value for key, value in batch.items() if key not in _TEXT}
            given.append(
                (model.embed(batch["input_ids"], **heard).detach(), batch["attention_mask"], batch["labels"])
            )
    llm = model.llm
    parameters = [one for one in llm.parameters() if one.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=1e-5, fused=not bench.dry)
    _reset(bench)
    ends = []
    for number in range(steps):
        embeds, mask, labels = given[number % len(given)]
        with _autocast(bench):
            loss = llm(inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        wait()
        ends.append(time.perf_counter())
    pairs = zip(ends, ends[1:], strict=False)
    return [after - before for before, after in pairs][_WARM_UP:], _memory(bench)


def _autocast(bench: Bench) -> torch.autocast:
    return torch.autocast(bench.device, dtype=torch.bfloat16, enabled=not bench.dry)


def _reset(bench: Bench) -> None:
    if not bench.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(bench: Bench) -> str:
    return "-" if bench.dry else f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def sharded_row(bench: Bench, kind: str, steps: int = 200) -> Row:
    """A run under torchrun that is stopped halfway, resumed, and compared with an undisturbed one.

    Args:
        bench: Parts and device.
        kind: A key of `SHARDING`.
        steps: Steps of the run.
    """
    processes = 2 if bench.dry else torch.cuda.device_count()
    half, took = steps // 2, {}
    for name in ("whole", "stopped"):
        out = f"{kind}-{name}"
        settings = bench.settings(out, batch=8, steps=steps, save_every=half, **SHARDING[kind])
        config = bench.folder / f"{out}.yaml"
        config.write_text(dump_settings(settings))
        started = time.perf_counter()
        code = _launch(bench, config, processes, half if name == "stopped" else None)
        if name == "stopped":
            code = code or 0
            if (
                not (bench.folder / out / "checkpoints").is_dir()
                or (bench.folder / out / "finished.json").exists()
            ):
                return Row("sharded", f"{kind}, {processes} processes", "not stopped in time")
            code = _launch(bench, config, processes, None)
        took[name] = time.perf_counter() - started
        if code:
            return Row(
                "sharded", f"{kind}, {processes} processes", f"exit code {code}", note=_last(bench, config)
            )
    losses = [_losses(bench.folder / f"{kind}-{name}") for name in ("whole", "stopped")]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return Row(
        "sharded",
        f"{kind}, {processes} processes, {steps} steps, stopped after {half} and resumed",
        f"losses within {apart:.1e} of an undisturbed run's",
        aim="<= 1e-3",
        note=f"last loss {losses[0][-1]:.3f}; {took['whole']:.0f} s undisturbed, {took['stopped']:.0f} s in two parts",
    )


def _launch(bench: Bench, config: Path, processes: int, stop_after: int | None) -> int:
    """The exit code of a stage under torchrun; it is sent SIGTERM after a checkpoint."""
    out = Path(re.findall(r"^out: (.*)$", config.read_text(), re.M)[0].strip("'\""))
    run = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--standalone",
        "-m",
        "alm",
        "train",
    ]
    variables = (
        {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"} if bench.dry else {}
    )
    with config.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            child_command(*run, str(config)), env=child_environment(variables), stdout=log, stderr=log
        )
        while stop_after is not None and process.poll() is None:
            if (out / "checkpoints" / f"checkpoint-{stop_after}" / "complete.json").exists():
                process.send_signal(signal.SIGTERM)  # torchrun passes it on; the processes save and end
                break
            time.sleep(0.05)
        return process.wait()


def _last(bench: Bench, config: Path) -> str:
    lines = [line.strip() for line in config.with_suffix(".log").read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if "rror" in line), "no message")[:200]


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def rows(folder: Path, dry: bool, peak: float, seconds_left: Callable[[], float]) -> list[Row]:
    """All rows for which there is time.

    Args:
        folder: For parts, clips and runs; removed by the caller.
        dry: Tiny sizes on CPUs.
        peak: TFLOP/s of a matrix product.
        seconds_left: Until the script must end.
    """
    bench = Bench(folder, dry)
    found = step_rows(bench, peak, steps=8 if dry else 20)
    for kind in SHARDING:
        if seconds_left() < 60:
            found.append(Row("sharded", kind, "not measured", note="no time left"))
            continue
        found.append(sharded_row(bench, kind, steps=8 if dry else 200))
    return found
