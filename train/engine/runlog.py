"""The log of a run: `metrics.jsonl`, and a progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from alm.common.files import write_text_atomic
from alm.common.json_text import read_log
from alm.common.terminal import progress
from train.data.protocols import UsesEpoch


class RunLog(TrainerCallback):
    """Writes `metrics.jsonl`, shows a bar with loss and ETA, and sets the epoch of datasets and models.

    Args:
        title: Name of the stage on the display.
        path: Where to write the metrics.
    """

    def __init__(self, title: str, path: Path) -> None:
        self.title, self.path = title, path
        self.started = time.time()

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
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            self._advance(1, **({"loss": f"{losses[-1]:.3f}"} if losses else {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line of metrics."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as handle:
                line = {"step": state.global_step, "time_s": round(time.time() - self.started, 2), **logs}
                handle.write(json.dumps(line) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if state.is_world_process_zero:
            self._bar.__exit__(None, None, None)


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
    """Remove lines that the run is going to write again, and a line that a kill truncated."""
    drop_lines(file, lambda line: line["step"] > step or "train_loss" in line)


def drop_lines(file: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Remove lines of a log, if there is one, and a line that a kill truncated."""
    if file.is_file():
        kept = [line for line in read_log(file) if not unwanted(line)]
        write_text_atomic(file, "".join(json.dumps(line) + "\n" for line in kept))
