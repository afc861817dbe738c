"""Fuzz manifests and shard directories: damaged ones are refused with one line, or give records that are right."""

import copy
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from fuzzing import Outcome, corrupted, damaged, fuzz, report

from alm.common.tables import read_csv
from alm.data.audit import statistics, verify
from alm.data.manifest import read_manifest, write_manifest
from alm.data.scenes.events import read_labels
from alm.data.shard_writer import write_shards
from alm.data.shards import CLIPS, INDEX, RECORDS, ShardedRecords
from alm.data.sources import open_records
from alm.data.subset import write_share
from encoders.audio import save_wav

RATE_HZ = 8000
ROWS = [
    {
        "id": "q",
        "audio": "0.wav",
        "question": "What is this?",
        "answer": "a bell",
        "choices": ["a bell", "rain"],
    },
    {
        "id": "c",
        "audio": {"path": "1.wav", "start_s": 0.01, "end_s": 0.04},
        "captions": ["A.", "B."],
        "clip": "x",
    },
    {
        "id": "m",
        "audio": ["0.wav", "2.wav"],
        "messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}],
    },
    {"id": "a", "audio": "3.wav", "labels": ["rain"], "number": 1.5},
]


@cache
def base() -> Path:
    """A folder with four recordings, a manifest, its shards and a label table."""
    folder = Path(tempfile.mkdtemp(prefix="alm-fuzz-"))
    for number in range(4):
        wave = 0.1 * (number + 1) * np.sin(np.arange(800 + 80 * number) / (3 + number))
        save_wav(folder / f"{number}.wav", wave.astype(np.float32), RATE_HZ)
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_shards(open_records([str(folder / "m.jsonl")], audio_only=True), folder / "shards", shard_mb=0.002)
    (folder / "l.csv").write_text(
        "filename,fold,category\n0.wav,1,dog\n1.wav,1,cat\n2.wav,2,dog\n3.wav,2,cat\n"
    )
    return folder


@cache
def truth() -> dict[str, bytes]:
    """What every clip of every record sounds like."""
    return {
        f"{record.id}#{place}": ref.load(RATE_HZ).tobytes()
        for record in read_manifest(base() / "m.jsonl", audio_only=True)
        for place, ref in enumerate(record.audio)
    }


def manifest_case(rng: random.Random):
    """One line with a corrupted value, or the bytes of the file damaged."""
    rows = copy.deepcopy(ROWS)
    if rng.random() < 0.6:
        number = rng.randrange(len(rows))
        what, rows[number] = corrupted(rng, rows[number])
        try:
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        except ValueError:
            data = b"\n"
    else:
        what, data = damaged(rng, (base() / "m.jsonl").read_bytes())

    def action():
        path = base() / "damaged.jsonl"
        path.write_bytes(data)
        out = base() / "share.jsonl"
        audio_only = rng.random() < 0.8
        records = read_manifest(path, audio_only=audio_only)
        assert len(records) == len(data.removesuffix(b"\n").split(b"\n")), "a line was skipped"
        assert len({record.id for record in records}) == len(records), "an id occurs twice"
        verify(str(path))
        statistics(str(path))
        write_share(path, out, 0.5)
        assert {r.id for r in read_manifest(out, audio_only=True)} <= {r.id for r in records}

    return what, action


def written_case(rng: random.Random):
    """Write a corrupted record as converters do: it is refused, or reads back unchanged."""
    what, row = corrupted(rng, rng.choice(ROWS[:3]))

    def action():
        path = base() / "written.jsonl"
        write_manifest(path, [row])
        (line,) = path.read_bytes().decode().splitlines()
        assert json.loads(line) == json.loads(json.dumps(row)), "the record changed"
        assert read_manifest(path)[0].id == row.get("id", read_manifest(path)[0].id)

    return what, action


def shards_case(rng: random.Random):
    """One value of the index or of a table corrupted, or the bytes of a file damaged."""
    name = rng.choice([INDEX, INDEX, RECORDS, CLIPS, "shard"])
    files = {path.name: path.read_bytes() for path in (base() / "shards").iterdir()}
    if name == "shard":
        name = rng.choice([file for file in files if file.endswith(".tar")])
    if name == INDEX and rng.random() < 0.7:
        what, index = corrupted(rng, json.loads(files[name]))
        data = json.dumps(index).encode()
    elif name.endswith(".npy") and rng.random() < 0.7:
        what, data = _table(rng, base() / "shards" / name)
    else:
        what, data = damaged(rng, files[name])
    # Half of the damaged tables get a matching hash, as if somebody had made them on purpose.
    rehash = name.endswith(".npy") and rng.random() < 0.5

    def action():
        folder = base() / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base() / "shards", folder)
        (folder / name).write_bytes(data)
        if rehash:
            import hashlib

            index = json.loads(files[INDEX])
            index["tables"][name] = hashlib.sha256(data).hexdigest()
            (folder / INDEX).write_text(json.dumps(index))
        records = ShardedRecords(folder, audio_only=True)
        for record in records:
            for place, ref in enumerate(record.audio):
                sound = ref.load(RATE_HZ).tobytes()
                right = truth().get(f"{record.id}#{place}")
                if name.endswith(".tar"):  # flipped samples are found only by `verify`, which compares hashes
                    continue
                assert sound == right, f"record {record.id} has the sound of another clip"
        for clip in range(len(records.clips)):
            records.named_clip(clip)
        found = verify(str(folder))
        if name.endswith(".tar") and data != files[name]:
            assert found.problems, "verify does not see a changed shard"
        statistics(str(folder))

    return f"{name}: {what}", action


def _table(rng: random.Random, path: Path) -> tuple[str, bytes]:
    table = np.load(path)
    row = rng.randrange(len(table))
    field = rng.choice([key for key in table.dtype.names if key not in ("seconds", "sha256")])
    if field in ("text_chars", "answered", "has_text", "frames", "rate"):  # not needed to read a record
        field = "at"
    bits = 8 * table.dtype[field].itemsize
    table[field][row] = rng.choice(
        [0, 1, 2, 512, 1 << (bits - 1), (1 << bits) - 1, int(table[field][row]) ^ 1]
    )
    out = path.parent.parent / "table.npy"
    np.save(out, table)
    return f"{field}[{row}] = {table[field][row]}", out.read_bytes()


def table_case(rng: random.Random):
    """A label table with damaged bytes or hostile cells."""
    text = (base() / "l.csv").read_bytes()
    if rng.random() < 0.5:
        what, data = damaged(rng, text)
    else:
        cells = [line.split(",") for line in text.decode().splitlines()]
        what, cells = corrupted(rng, cells)
        data = "\n".join(
            ",".join(map(str, row)) if isinstance(row, list) else str(row) for row in cells
        ).encode(errors="surrogatepass")

    def action():
        path = base() / "damaged.csv"
        path.write_bytes(data)
        rows = list(read_csv(path, ("filename",)))
        assert all(set(row) == set(rows[0][1]) for _, row in rows), "rows differ in their columns"
        clips = read_labels(path)
        assert len(clips) == len(rows), "a row was skipped"

    return what, action


CASES = {
    "manifests": manifest_case,
    "written manifests": written_case,
    "shards": shards_case,
    "label tables": table_case,
}


def run(seconds: float | None = None, n: int | None = None, seed: int | None = None) -> list[Outcome]:
    """Every case for a share of the time, or `n` inputs of each."""
    share = None if seconds is None else seconds / len(CASES)
    return [fuzz(name, case, share, n, seed) for name, case in CASES.items()]


def main(seconds: float) -> int:
    """Fuzz for some seconds; returns how many findings there are."""
    try:
        return report(*run(seconds))
    finally:
        shutil.rmtree(base(), ignore_errors=True)


if __name__ == "__main__":
    import sys

    sys.exit(1 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0) else 0)
