"""Fuzz every reader of data: damaged rows and files are refused with one line, or give records that can be read."""

import base64
import csv
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Outcome, corrupted, damaged, fuzz, report

from alm.common.errors import AudioError
from alm.data.readers import READERS
from alm.data.readers.base import DataSource
from alm.data.sources import open_source
from encoders.audio import save_wav

RATE_HZ = 8000
TURNS = [{"role": "user", "content": "<audio>What is this?"}, {"role": "assistant", "content": "a bell"}]
GPT_TURNS = [{"from": "human", "value": "<audio>What is this?"}, {"from": "gpt", "value": "a bell"}]


@cache
def sound() -> bytes:
    """A tenth of a second."""
    folder = Path(tempfile.mkdtemp(prefix="alm-fuzz-"))
    try:
        save_wav(folder / "a.wav", (0.3 * np.sin(np.arange(800) / 5)).astype(np.float32), RATE_HZ)
        return (folder / "a.wav").read_bytes()
    finally:
        shutil.rmtree(folder)


@cache
def folder() -> Path:
    """Where the damaged data lie, beside three recordings."""
    place = Path(tempfile.mkdtemp(prefix="alm-fuzz-"))
    for number in range(3):
        (place / f"{number}.wav").write_bytes(sound())
    return place


def as_lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows])).encode()


def as_list(rows: Any) -> bytes:
    return json.dumps(rows).encode()


def as_table(rows: Any, delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["audio", "question", "answer"])
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(list(row.values()) if isinstance(row, dict) else [row])
    return out.getvalue().encode("utf-8", "surrogatepass")


def as_tar(rows: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
            for suffix, data in (("wav", sound()), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def as_parquet(rows: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    cells = [{"audio": {"bytes": sound(), "path": None}, **row} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells), out)
    return out.getvalue()


def many(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(row).replace("0.wav", f"{number}.wav")) for number in range(3)]


ASKED = {"question": "What is this?", "answer": "a bell"}
FORMS: dict[str, tuple[str, str, list[dict[str, Any]], Callable[[Any], bytes]]] = {
    "manifest": ("manifest", "m.jsonl", many({"audio": "0.wav", **ASKED}), as_lines),
    "swift": ("chat", "swift.jsonl", many({"messages": TURNS, "audios": ["0.wav"]}), as_lines),
    "sharegpt": ("chat", "gpt.json", many({"conversations": GPT_TURNS, "audio": "0.wav"}), as_list),
    "factory": (
        "chat",
        "factory.json",
        many({"instruction": "<audio>What is this?", "input": "", "output": "a bell", "audios": ["0.wav"]}),
        as_list,
    ),
    "openai": (
        "chat",
        "openai.jsonl",
        many(
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "input_audio",
                                "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"},
                            },
                            {"type": "audio", "audio_url": "0.wav"},
                            {"type": "text", "text": "What is this?"},
                        ],
                    },
                    {"role": "assistant", "content": "a bell"},
                ]
            }
        ),
        as_lines,
    ),
    "csv": ("table", "t.csv", many({"audio": "0.wav", **ASKED}), as_table),
    "tsv": ("table", "t.tsv", many({"audio": "0.wav", **ASKED}), lambda rows: as_table(rows, "\t")),
    "json": ("table", "t.json", many({"audio": "0.wav", **ASKED}), as_list),
    "audiofolder": (
        "audiofolder",
        "folder/metadata.jsonl",
        many({"file_name": "../0.wav", **ASKED}),
        as_lines,
    ),
    "webdataset": ("webdataset", "w.tar", many(ASKED), as_tar),
    "parquet": ("huggingface", "p.parquet", many(ASKED), as_parquet),
    "scp": (
        "kaldi",
        "kaldi/wav.scp",
        [{"line": f"utt{number} {{}}/{number}.wav"} for number in range(3)],
        lambda rows: "".join(f"{row['line'].format(folder())}\n" for row in rows).encode(),
    ),
}


def case(rng: random.Random):
    """One value of a row corrupted, or the bytes of the file damaged."""
    name = rng.choice(list(FORMS))
    form, file, rows, write = FORMS[name]
    if rng.random() < 0.6 and name not in ("scp", "parquet"):
        what, changed = corrupted(rng, rows)
        try:
            data = write(changed)
        except (ValueError, TypeError):
            data = b"\n"
    else:
        what, data = damaged(rng, write(rows))

    def action():
        path = folder() / file
        path.parent.mkdir(exist_ok=True)
        if name == "scp":
            (path.parent / "text").write_text("".join(f"utt{number} a bell\n" for number in range(3)))
        path.write_bytes(data)
        place = path.parent if path.parent != folder() else path
        prompt = "What?" if "prompt" in READERS.get(form).takes and rng.random() < 0.5 else None
        records = open_source(DataSource(str(place), format=form, prompt=prompt), audio_only=True)
        assert len({record.id for record in records}) == len(records) > 0, "an id occurs twice"
        for record in records:
            assert record.audio or record.messages, "a record of nothing"
            for ref in record.audio:
                try:
                    assert len(ref.load(RATE_HZ)) > 0
                except AudioError:
                    pass

    return f"{name}: {what}", action


def run(seconds: float | None = None, n: int | None = None, seed: int | None = None) -> list[Outcome]:
    """Fuzz for some seconds, or with `n` inputs."""
    return [fuzz("readers", case, seconds, n, seed)]


def main(seconds: float) -> int:
    """Fuzz for some seconds; returns how many findings there are."""
    os.environ["ALM_CACHE"] = str(folder() / "cache")
    try:
        outcomes = run(seconds)
    finally:
        shutil.rmtree(folder(), ignore_errors=True)
    return report(*outcomes)


if __name__ == "__main__":
    import sys

    sys.exit(1 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0) else 0)
