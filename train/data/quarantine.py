"""Quarantine: a bad sample is recorded with the reason and replaced by the next one; too many end the run.

If an item consists of several samples (`data.share_clips`), its good samples are kept. Which sample replaces a bad one
depends on the data alone, so it is the same in every process, worker and resumed run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import AudioError, ConfigError, StorageError, UserError
from alm.common.json_text import read_log
from encoders.audio import SILENT_PEAK
from train.data.protocols import TrainingDataset
from train.settings.data import DataSettings

FILE = "quarantine.jsonl"


def check_audible(waveform: np.ndarray, name: object) -> None:
    """Check that a waveform of any shape is not silent.

    Raises:
        AudioError: It is silent throughout.
    """
    if float(np.abs(waveform).max(initial=0.0)) < SILENT_PEAK:
        raise AudioError(f"{name}: is silent throughout; download or convert it again")


class GuardedDataset(TrainingDataset):
    """A dataset whose bad samples are replaced by the next good one.

    Args:
        dataset: Gives a sample, or raises UserError.
        check: Called with every sample; raises UserError for one that must not be part of a batch.
        file: The process that meets a bad sample appends a line here.
        max_share: Share of bad samples above which `complaint` returns a message.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        check: Callable[[dict[str, Any]], None],
        file: Path,
        max_share: float,
    ) -> None:
        self.dataset, self.check, self.file, self.max_share = dataset, check, file, max_share
        self._written: set[str] = set()
        self._size, self._names = -1, set[str]()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        self.dataset.set_epoch(epoch)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the order of the guarded dataset."""
        return self.dataset.order(seed, epoch)

    def name(self, index: int) -> str:
        """Return the name of the sample itself, whatever replaces it."""
        return self.dataset.name(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the sample, or the next good one.

        Raises:
            UserError: There is no good one at all.
            StorageError: A file of the data is missing or damaged, which is no fault of one sample.
            ConfigError: A setting is wrong, for example `ALM_MAX_AUDIO_S`.
        """
        for ahead in range(len(self)):
            good = []
            for name, read in self.dataset.members((index + ahead) % len(self)):
                try:
                    sample = read()
                    self.check(sample)
                    good.append(sample)
                except (StorageError, ConfigError):
                    raise
                except UserError as error:
                    self._write(name, str(error))
            if good:
                return self.dataset.join(good)
        raise UserError(
            f"data.train: every one of the {self.dataset.n_samples} samples is bad; see {self.file}"
        )

    def _write(self, name: str, reason: str) -> None:
        """Append a line; short lines appended at once do not mix with those of other processes."""
        if name in self._written or name in self.quarantined():
            return
        self._written.add(name)
        line = json.dumps({"id": name, "reason": reason}) + "\n"
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def quarantined(self) -> set[str]:
        """Return the names of the samples that all processes have quarantined so far."""
        size = self.file.stat().st_size if self.file.is_file() else 0
        if size != self._size:
            self._size, self._names = (
                size,
                {str(line["id"]) for line in read_log(self.file) if "id" in line},
            )
        return self._names

    def complaint(self) -> str | None:
        """Return the message for too many bad samples; None while they are few enough."""
        bad, n_samples = len(self.quarantined()), self.dataset.n_samples
        if bad <= self.max_share * n_samples:
            return None
        return (
            f"data.train: {bad} of {n_samples} samples are bad, more than data.max_bad_share={self.max_share:g}; "
            f"see {self.file} for the reasons"
        )


def guarded(
    dataset: TrainingDataset, check: Callable[[dict[str, Any]], None], settings: DataSettings, folder: Path
) -> TrainingDataset:
    """Return the dataset itself with `data.on_bad: stop`, guarded with `quarantine`."""
    if settings.on_bad == "stop":
        return dataset
    return GuardedDataset(dataset, check, folder / FILE, settings.max_bad_share)
