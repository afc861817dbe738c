"""Large manifests: an index made by several processes is that of one, and every refusal stays the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from alm.common.errors import ManifestError
from alm.common.json_text import parse_json
from alm.data import index, row_processes
from alm.data.manifest import open_manifest, read_manifest
from alm.data.sources import open_records
from alm.data.subset import write_share


@pytest.fixture
def in_parts(monkeypatch, tmp_path):
    """Manifests of some kilobytes are large, and the machine has three cores."""
    monkeypatch.setenv("ALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_processes, "_LEAST_BYTES", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    calls = []
    real = row_processes._ranges
    monkeypatch.setattr(row_processes, "_ranges", lambda *given: calls.append(real(*given)) or calls[-1])
    return calls


def rows(n: int) -> list[dict]:
    return [
        {
            "audio": f"{number}.wav",
            "question": "Was hört man: Regen?",
            "answer": 'Ja, "Regen"' * (number % 7 + 1),
        }
        | ({} if number % 3 else {"id": f"clip {number}"})
        for number in range(n)
    ]


def test_an_index_made_by_processes_is_that_of_one(in_parts, tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    text = "\ufeff" + "".join(
        json.dumps(row, ensure_ascii=bool(number % 2)) + "\n" for number, row in enumerate(rows(200))
    )
    path.write_text(text.removesuffix("\n"))
    made = open_manifest(path)
    assert (
        len(in_parts[0]) == 3 and in_parts[0][1][2] > 30
    )  # three parts; the second one begins in the middle
    assert [record.id for record in made] == [record.id for record in read_manifest(path)]
    monkeypatch.setattr(row_processes, "_LEAST_BYTES", 1 << 30)
    alone = open_manifest(path)
    assert len(in_parts) == 1 and np.array_equal(alone.rows, made.rows)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"id": "x"}', "150: 'audio' is missing"),
        ("", "150: blank line"),
        (
            '{"id": "clip 0", "audio": "a.wav", "question": "?", "answer": "!"}',
            "150: id 'clip 0' was already used at",
        ),
        (
            '{"audio": "a.wav", "question": "?", "answer": "!", "answer": "no"}',
            "150: broken JSON (key 'answer' given",
        ),
    ],
)
def test_a_bad_line_is_named_as_by_one_process(in_parts, tmp_path, bad, message):
    path = tmp_path / "m.jsonl"
    lines = [json.dumps(row) for row in rows(200)]
    lines[149] = bad
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ManifestError) as error:
        open_manifest(path)
    assert message in str(error.value) and in_parts


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1, "a" : 2}',
        '{"a": {"b": 1, "b": 2}, "c": [{"d": "\\":"}]}',
        '{"a": [{"b": 1, "b": 2}], "c": "x:y"}',
        '{"a": "k", "a": "\\":"}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": [[-1e999]]}',
        '{"a": ' + "1" * 301 + "}",
        '{"a": 1} x',
        '{"a": 1,}',
        '{"a": "\\ud800"}',
        '{"a": ' * 100_000,
        '{"a":' + "[" * 100_000,
    ],
)
def test_the_fast_parser_accepts_nothing_that_the_strict_one_refuses(text):
    with pytest.raises(ManifestError):
        parse_json(text, "here")


@pytest.mark.parametrize(
    "value",
    [
        {"a": '":', "b": {'"': 'x":', "c:": 1.5}},
        {"a": " : ", "b": [' " :', {"\\": -1, "": None}]},
        {"a": 2**64, "b": -(2**70), "c": [True, [], {}]},
        {"text": "größer: 中文"},
    ],
)
def test_the_fast_parser_gives_what_was_written(value):
    for ascii_only in (True, False):
        for separators in ((", ", ": "), (",", ":"), (" ,", " : ")):
            assert (
                parse_json(json.dumps(value, ensure_ascii=ascii_only, separators=separators), "here") == value
            )


def test_repeated_ids_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(index, "_SORTED_ROWS", 4)
    for n in range(1, 30):
        table = np.zeros(n, index.ROW)
        table["id_hash"] = np.random.default_rng(n).integers(0, 2 * n, n)
        values, counts = np.unique(table["id_hash"], return_counts=True)
        found = index.repeated_hashes([table[: n // 2], table[n // 2 :]])
        assert found.tolist() == values[counts > 1].tolist()


def test_a_share_keeps_ids_that_were_made(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(10)))
    write_share(path, tmp_path / "share.jsonl", 0.5)
    kept = [record.id for record in open_records([str(tmp_path / "share.jsonl")])]
    assert len(kept) == 5 and set(kept) < {record.id for record in read_manifest(path)}


def test_a_table_that_was_just_written_does_not_stay_in_memory(tmp_path):
    """Pages of the index count as private memory until they are on disk: 300 MB for ten million records."""
    rows = np.zeros(200_000, index.ROW)
    rows["id_hash"] = np.arange(len(rows))
    (tmp_path / "t.index").write_bytes(rows.tobytes())
    mapped = np.memmap(tmp_path / "t.index", index.ROW, "r")
    assert not len(index.repeated_hashes([mapped]))
    places = Path("/proc/self/smaps").read_text().split("t.index\n")[1]
    held = {line.split(":")[0]: int(line.split()[1]) for line in places.splitlines()[:8]}
    assert held["Size"] > 5000 and held["Rss"] < 1000
    assert int(mapped[-1]["id_hash"]) == len(rows) - 1
