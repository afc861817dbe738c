"""Recordings inside other files: members of archives, cells of data sets, text in base64.

Training, evaluation and checks use them through the same calls as files (`alm.data.records.AudioRef`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alm.common.errors import AudioError
from alm.common.storage.remote import joined
from alm.common.text import decode_base64
from alm.data.byte_ranges import read_range
from alm.data.records import AudioRef

if TYPE_CHECKING:
    import numpy as np

    from encoders.audio import AudioHeader


@dataclass(frozen=True)
class EmbeddedRef(AudioRef):
    """A clip, or a segment of it, inside another file; subclasses implement `read_bytes`.

    Attributes:
        path: The file that holds it.
        name: Its name inside that file.
    """

    name: str = ""

    def load(self, sample_rate: int) -> np.ndarray:
        """The clip as a waveform (S,) float32 in [-1, 1] at `sample_rate` Hz."""
        from encoders.audio import decode_audio

        return decode_audio(
            self.read_bytes(), f"{self.path}:{self.name}", sample_rate, self.start_s, self.end_s
        )

    def header(self) -> AudioHeader:
        """Length, rate and channels of the whole recording, without decoding it."""
        from encoders.audio import read_header

        return read_header(self.read_bytes(), f"{self.path}:{self.name}")

    def state(self) -> tuple[int, int] | None:
        """Size and time of change of the file that holds it, or of the folder of a data set."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns

    @property
    def file_name(self) -> str:
        """The names of the file and of the recording inside it."""
        return f"{self.path.name}:{self.name}"

    @property
    def whole(self) -> str:
        """A key of the whole recording: equal for all segments of one."""
        return f"{self.path}:{self.name}"


@dataclass(frozen=True)
class RangeRef(EmbeddedRef):
    """A member of an archive without compression.

    Attributes:
        at: Offset of its content in the file, in bytes.
        size: Length of the content in bytes.
    """

    at: int = 0
    size: int = 0

    def read_bytes(self) -> bytes:
        """The whole recording, as it is stored."""
        return read_range(self.path, self.at, self.size, f"clip {self.name}", kind="archive")


@dataclass(frozen=True)
class InlineRef(EmbeddedRef):
    """A recording inside the record itself, as base64 text."""

    data: str = ""

    def read_bytes(self) -> bytes:
        """The whole recording."""
        return inline_audio(self.data, f"{self.path}:{self.name}")

    def state(self) -> tuple[int, int]:
        """The length of the base64 text, and 0: the record holds the recording, so there is no modification time."""
        return len(self.data), 0


@dataclass(frozen=True)
class DatasetRef(EmbeddedRef):
    """A recording in a row of a `datasets` data set.

    Attributes:
        row: Number of the row.
        column: Name of the column.
        place: Number among the recordings of a cell that holds a list; -1 if the cell holds a single one.
        split: The split.
    """

    row: int = 0
    column: str = ""
    place: int = -1
    split: str = ""

    def read_bytes(self) -> bytes:
        """The whole recording, as it is stored.

        Raises:
            AudioError: The row does not hold it any more.
        """
        from alm.data.huggingface import opened

        cell = opened(str(self.path), self.split)[self.row][self.column]
        cell = cell if self.place < 0 else cell[self.place]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise AudioError(f"{self.path}:{self.name}: the row holds no audio; write the data set again")
        return data


_KINDS: dict[str, type[EmbeddedRef]] = {"range": RangeRef, "inline": InlineRef, "dataset": DatasetRef}


def embedded_ref(
    values: Mapping[str, Any], folder: Path, start_s: float | None, end_s: float | None
) -> EmbeddedRef:
    """Build a reference from its description in plain values, as readers give it.

    Args:
        values: `kind` (`range`, `inline` or `dataset`), `path`, and the attributes of its class.
        folder: The folder that a relative `path` starts from.
        start_s: Start of the segment in seconds.
        end_s: Its end in seconds.
    """
    given = {key: value for key, value in values.items() if key not in ("kind", "path")}
    return _KINDS[values["kind"]](joined(folder, values["path"]), start_s, end_s, **given)


def inline_audio(text: str, where: str) -> bytes:
    """Bytes of base64 text; a `data:` URL may stand before it.

    Raises:
        AudioError: It is not base64.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise AudioError(
                f"{where}: {head[:40]!r} is not a data: URL in base64; encode the audio in base64"
            )
    try:
        return decode_base64(text)
    except ValueError as error:
        raise AudioError(f"{where}: the audio is not base64 ({error}); encode it again") from error
