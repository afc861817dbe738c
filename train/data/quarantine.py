"""Bad recordings: put aside with the reason, replaced by the next sample, and too many of them end the run.

What stands in for a bad sample depends on the data alone, so every process, every worker and every resumed run draws
the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from alm.common.errors import AudioError
from train.data.settings import DataSettings

FILE = "quarantine.jsonl"
# Peaks below one step of 16-bit audio: a recording of nothing, left by a failed download or conversion.
_SILENT_PEAK = 2.0**-15


def check_audible(waveform: np.ndarray, what: object) -> None:
    """Whether a waveform (of any shape) holds any sound.

    Raises:
        AudioError: It is silent throughout.
    """
    if float(np.abs(waveform).max(initial=0.0)) < _SILENT_PEAK:
        raise AudioError(f"{what}: is silent throughout; download or convert it again")


class GuardedDataset(Dataset):
    """A dataset whose bad samples are replaced by the next good one.

    Args:
        dataset: Gives a sample, or raises AudioError; has `name(index)`.
        check: Called with every sample; raises AudioError about one that must not be trained on.
        file: One line per bad sample is appended here, by whichever process meets it.
        max_share: Share of bad samples above which `complaint` complains.
    """

    def __init__(
        self, dataset: Any, check: Callable[[dict[str, Any]], None], file: Path, max_share: float
    ) -> None:
        self.dataset, self.check, self.file, self.max_share = dataset, check, file, max_share
        self._written: set[str] = set()
        self._size, self._names = -1, set[str]()
        own = getattr(dataset, "order", None)
        if own is not None:
            self.order = own

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on."""
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def name(self, index: int) -> str:
        """The name of the sample itself, whatever stands in for it."""
        return self.dataset.name(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample, or the next good one.

        Raises:
            AudioError: There is no good one at all.
        """
        for ahead in range(len(self)):
            other = (index + ahead) % len(self)
            try:
                sample = self.dataset[other]
                self.check(sample)
                return sample
            except AudioError as error:
                self._write(self.dataset.name(other), str(error))
        raise AudioError(f"data.train: every one of the {len(self)} samples is bad; see {self.file}")

    def _write(self, name: str, reason: str) -> None:
        """Add a line; short lines appended at once do not mix, whoever else writes."""
        if name in self._written or name in self.names():
            return
        self._written.add(name)
        line = json.dumps({"id": name, "reason": reason}) + "\n"
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def names(self) -> set[str]:
        """The samples put aside so far by all processes."""
        size = self.file.stat().st_size if self.file.is_file() else 0
        if size != self._size:
            lines = self.file.read_text(encoding="utf-8").splitlines() if size else []
            self._size, self._names = size, {_name_in(line) for line in lines} - {""}
        return self._names

    def complaint(self) -> str | None:
        """What to say where too many samples are bad; None where they are not."""
        bad, allowed = len(self.names()), self.max_share * len(self)
        if bad <= allowed:
            return None
        return (
            f"data.train: {bad} of {len(self)} samples are bad, more than data.max_bad_share={self.max_share:g}; "
            f"see {self.file} for the reasons"
        )


def _name_in(line: str) -> str:
    """The id in a line; empty where a kill cut the line short."""
    try:
        return str(json.loads(line)["id"])
    except (ValueError, KeyError):
        return ""


def guarded(
    dataset: Any, check: Callable[[dict[str, Any]], None], settings: DataSettings, folder: Path
) -> Any:
    """The dataset itself with `data.on_bad: stop`, guarded with `quarantine`."""
    if settings.on_bad == "stop":
        return dataset
    return GuardedDataset(dataset, check, folder / FILE, settings.max_bad_share)
