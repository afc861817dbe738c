"""Checksums of the tensors of a safetensors file, kept in its header and compared when the file is read.

A flipped bit makes another valid number: shapes and finiteness do not show it. CRC-32 costs a few percent of the time
to load a model, because the values are read from the disk anyway.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from alm.common.errors import CheckpointError
from alm.common.json_text import parse_json

ENTRY = "crc32"
"""Name of the header's metadata entry: a JSON object of 8 hexadecimal digits by tensor name."""


def checksum(values: Tensor) -> int:
    """CRC-32 of a tensor's bytes, in any shape and dtype."""
    return zlib.crc32(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """CRC-32 of each tensor as 8 hexadecimal digits, computed on all cores of this process."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(
            zip(tensors, (f"{value:08x}" for value in pool.map(checksum, tensors.values())), strict=True)
        )


def check_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with the checksums in the header of the file they were read from, where it has any.

    Args:
        file: A safetensors file.
        tensors: All of its tensors, by their names in the file.

    Raises:
        CheckpointError: Naming the tensors whose values are not those that were saved.
    """
    header = parse_json(read_header(file).decode(), f"{file}: header", CheckpointError)
    entry = header.get("__metadata__", {}).get(ENTRY)
    if entry is None:
        return
    saved = parse_json(entry, f"{file}: '{ENTRY}' in its metadata", CheckpointError)
    found = checksums(tensors)
    if saved != found:
        wrong = [key for key in found if not isinstance(saved, dict) or saved.get(key) != found[key]]
        names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise CheckpointError(
            f"{file}: the values of {names} are not those that were saved (checksum); restore the file, or, if "
            f"the change is intended, save it without '{ENTRY}' in its metadata"
        )


def header_sha256(file: Path) -> str:
    """Hash of a safetensors file's header: with the checksums in it, it identifies the whole content.

    Raises:
        CheckpointError: The file is no safetensors file.
    """
    return hashlib.sha256(read_header(file)).hexdigest()


def read_header(file: Path) -> bytes:
    """The header of a safetensors file: JSON with names, shapes, dtypes, places and metadata.

    Raises:
        CheckpointError: The file is no safetensors file.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= file.stat().st_size - 8:
            raise CheckpointError(f"{file}: cannot be read (its header is incomplete); restore the file")
        return stream.read(length)


def sort_metadata(file: Path) -> None:
    """Write the metadata entries of a safetensors file in alphabetical order.

    The library writes them in random order: files of equal tensors would have unequal hashes.
    """
    text = read_header(file).decode()
    header = parse_json(text, f"{file}: header", CheckpointError)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    size = len(text.encode())
    assert len(ordered) <= size, "safetensors writes compact JSON"
    with file.open("r+b") as stream:
        stream.seek(8)
        stream.write(ordered.ljust(size))
