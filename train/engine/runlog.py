"""The log of a run: `metrics.jsonl`, and a progress bar."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from alm.common.files import write_text_atomic
from alm.common.json_text import read_log
from alm.common.terminal import progress
from train.data.protocols import UsesEpoch
from train.engine.throughput import summary
from train.processes import say

LOGS = "logs"  # of backends, in the run directory
# The variable with which each backend is told where to write.
_FOLDER_OF = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR"}


class RunLog(TrainerCallback):
    """Writes `metrics.jsonl`, shows a bar with loss, speed and ETA, and sets the epoch of datasets and models.

    Args:
        title: Name of the stage on the display.
        path: Where to write the metrics.
    """

    def __init__(self, title: str, path: Path) -> None:
        self.title, self.path = title, path
        self.started = time.time()
        self._last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar; a resumed run is in the epoch of its last step, also if no step is left."""
        if state.global_step:
            _set_epoch(max(math.ceil(state.epoch) - 1, 0), kwargs)
        if state.is_world_process_zero:
            self._bar = progress(self.title, state.max_steps, "step")
            self._advance = self._bar.__enter__()
            self._advance(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch of model, dataset and batch sampler: their random choices are functions of it."""
        _set_epoch(int(state.epoch or 0), kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        if state.is_world_process_zero:
            shown = {"loss": f"{self._last['loss']:.3f}"} if "loss" in self._last else {}
            if "tokens_per_s" in self._last:
                shown["tokens/s"] = f"{self._last['tokens_per_s']:,.0f}"
            self._advance(1, **shown)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line of metrics."""
        if state.is_world_process_zero and logs:
            self._last = logs if "eval_loss" not in logs else self._last
            with self.path.open("a", encoding="utf-8") as handle:
                line = {"step": state.global_step, "time_s": round(time.time() - self.started, 2), **logs}
                handle.write(json.dumps(line) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar, and say how fast the run was."""
        if state.is_world_process_zero:
            self._bar.__exit__(None, None, None)
            say(f"{self.title}: {summary(self._last)}")


@contextmanager
def backends_log_to(folder: Path, backends: Sequence[str]) -> Iterator[None]:
    """Make logging backends write their files into a folder, unless their environment variables name another."""
    chosen = [
        _FOLDER_OF[name] for name in backends if name in _FOLDER_OF and _FOLDER_OF[name] not in os.environ
    ]
    if chosen:
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(dict.fromkeys(chosen, str(folder.resolve())))
    try:
        yield
    finally:
        for name in chosen:
            os.environ.pop(name, None)


def _set_epoch(epoch: int, kwargs: dict[str, Any]) -> None:
    """Call `set_epoch` of the model, the dataset and the batch sampler, where they have it."""
    loader = kwargs.get("train_dataloader")
    for target in (
        kwargs.get("model"),
        getattr(loader, "dataset", None),
        getattr(loader, "batch_sampler", None),
    ):
        if isinstance(target, UsesEpoch):
            target.set_epoch(epoch)


def cut_log(file: Path, step: int) -> None:
    """Remove lines that the run will write again, and a line that was truncated when the run was killed."""
    drop_lines(file, lambda line: line["step"] > step or "train_loss" in line)


def drop_lines(file: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Remove lines of a log, if there is one, and a line that was truncated when the run was killed."""
    if file.is_file():
        kept = [line for line in read_log(file) if not unwanted(line)]
        write_text_atomic(file, "".join(json.dumps(line) + "\n" for line in kept))
