"""Divides an evaluation among processes: each writes its answers to its own file, and the first joins the files."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from alm.common.processes import rank, world_size
from alm.common.text import error_line
from eval.errors import EvaluationError
from eval.scoring.predictions import PREDICTIONS, Prediction, PredictionsFile, read_predictions

_TIMEOUT = timedelta(days=1)  # a slow machine's share may take hours longer than a fast one's


class Shards:
    """This process' share of an evaluation; all of it where there is one process.

    Launch with `torchrun --nproc-per-node N -m alm eval …`; RANK and WORLD_SIZE number the processes.

    Attributes:
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(self, out_dir: Path) -> None:
        self.rank, self.world = rank(), world_size()
        self._out_dir = out_dir

    @property
    def is_main(self) -> bool:
        """Whether this process puts the answers together and scores them."""
        return self.rank == 0

    def open(self) -> PredictionsFile:
        """The file that this process appends to."""
        name = PREDICTIONS if self.world == 1 else f"predictions.rank{self.rank}.jsonl"
        return PredictionsFile(self._out_dir / name, alone=True)

    def known(self) -> dict[str, Prediction]:
        """All stored answers by key, also those of killed runs, whatever their number of processes."""
        paths = [self._out_dir / PREDICTIONS, *sorted(self._out_dir.glob("predictions.rank*.jsonl"))]
        return {line["key"]: line for path in paths if path.exists() for line in read_predictions(path)}

    def share(self, questions: list[Any]) -> list[Any]:
        """This process' questions: every `world`-th one, so that all processes get similar lengths."""
        return questions[self.rank :: self.world]

    def wait(self) -> None:
        """Wait for the other processes.

        Raises:
            EvaluationError: One of them has ended, or its machine cannot be reached.
        """
        if self.world > 1:
            from torch import distributed

            try:
                if not distributed.is_initialized():
                    # The processes only wait for each other, for which gloo works on any machine.
                    distributed.init_process_group("gloo", timeout=_TIMEOUT)
                distributed.barrier()
            except RuntimeError as error:
                raise EvaluationError(
                    "another process of this evaluation has ended, or its machine cannot be reached; its output "
                    f"says why ({error_line(error, 200)}); answers are kept, run the same command again"
                ) from error

    @staticmethod
    def device() -> str | None:
        """Device of this process' model; None leaves the choice to the loader."""
        from encoders.devices import accelerator, process_device

        return None if world_size() == 1 or accelerator() is None else str(process_device())

    def merge(self) -> list[Prediction]:
        """Put all answers into `predictions.jsonl` and remove the other files; only the first process may."""
        with PredictionsFile(self._out_dir / PREDICTIONS, alone=True) as file:
            have = {line["key"] for line in file.lines}
            file.append([line for key, line in self.known().items() if key not in have])
            lines = list(file.lines)
        for path in self._out_dir.glob("predictions.rank*.jsonl"):
            path.unlink()
        return lines
