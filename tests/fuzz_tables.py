"""Damaged tables of every corpus: conversion, benchmark and fine-tuning read them right, or refuse them in one line."""

import contextlib
import csv
import io
import itertools
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import corpus_trees
import pyarrow
import pyarrow.parquet
import test_alm_convert
from fuzzing import HOSTILE_VALUES, Outcome, corrupted, damaged, fuzz, report

from alm.common.errors import UserError
from alm.data.convert import write_manifests
from alm.data.corpora import CORPORA
from alm.data.corpora.audio_files import AudioFiles
from alm.data.manifest import read_manifest
from eval.benchmarks._readers import entry_record, read_entries
from train.finetune.datasets import read_dataset

TREES = {**corpus_trees.TREES, **test_alm_convert.OWN}
_TABLES = (".csv", ".json", ".jsonl", ".parquet", ".txt")
# How many table rows one entry is made of; None where rows are dropped or joined by design.
_UNITS = {
    "audiocaps": lambda entry: len(entry.captions),
    "clothoaqa": lambda entry: 1 if entry.split == "train" else len(entry.answers),
    **dict.fromkeys(("clotho", "wavcaps", "openaqa", "label_csv", "mmau", "mmar", "mmsu"), lambda entry: 1),
    **dict.fromkeys(("airbench", "airbench_chat"), lambda entry: 1),
}  # fmt: skip


def main(seconds: float) -> int:
    """Damage tables for some seconds; returns how many findings there are."""
    return report(run(seconds=seconds))


def run(seconds: float | None = None, n: int | None = None, seed: int | None = None) -> Outcome:
    """Damage tables for some seconds, or so many."""
    with tempfile.TemporaryDirectory() as folder:
        trees = {name: _Tree(name, Path(folder)) for name in CORPORA.shipped()}
        return fuzz("tables", lambda rng: trees[rng.choice(sorted(trees))].case(rng), seconds, n, seed)


class _Tree:
    """The tree of a corpus; a case damages one table and restores it afterwards."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.root, self.out = name, folder / name / "root", folder / name / "out"
        self.root.mkdir(parents=True)
        self.options = {"root": str(self.root), **(TREES[name](self.root) or {})}
        self.tables = [path for path in sorted(self.root.rglob("*")) if path.suffix in _TABLES]
        self.whole = {path: path.read_bytes() for path in self.tables}
        self.files = self._all_files()

    def case(self, rng: random.Random) -> tuple[str, Any]:
        if not self.tables:
            return f"{self.name}: no table", lambda: None
        table = rng.choice(self.tables)
        what, data = _damage(rng, table, self.whole[table])

        def action() -> None:
            table.write_bytes(data)
            try:
                self._use()
            finally:
                table.write_bytes(self.whole[table])
                shutil.rmtree(self.out, ignore_errors=True)

        return f"{self.name}: {table.name}: {what}", action

    def _use(self) -> None:
        """Run every use of the corpus, then raise the first refusal among them."""
        refused: list[UserError] = []
        for use in (self._convert, self._ask, self._finetune):
            try:
                use()
            except UserError as error:
                assert "\n" not in str(error), error
                refused.append(error)
        assert self._all_files() == self.files, "a file was written outside the output folder"
        if refused:
            raise refused[0]

    def _corpus(self) -> Any:
        return CORPORA.get(self.name)(**self.options)

    def _convert(self) -> None:
        done = write_manifests(self.name, self._corpus(), self.out, max_missing=0.9)
        said = self._said()
        for split, count in done.written.items():
            records = read_manifest(self.out / f"{split}.jsonl", check_files=True)
            assert len(records) == count
            for record in records:
                for label in record.meta.get("labels", ()):
                    assert label in said, f"label {label!r} is nowhere in the tables"
                if "labels" not in record.meta:
                    texts = (*record.captions, record.answer or "", *record.choices)
                    for text in texts:
                        assert text in said, f"{text!r} is nowhere in the tables"

    def _ask(self) -> None:
        corpus = self._corpus()
        for split in corpus.splits or (None,):
            for entry in read_entries(corpus, split):
                record = entry_record(entry)
                assert len(record.audio) == len(entry.audio) and (
                    record.messages[0]["content"] or not entry.question
                )
        if self.name in _UNITS:
            units = map(_UNITS[self.name], corpus.entries(AudioFiles(corpus.audio_folders())))
            rows = sum(_count_rows(path) for path in self.tables if path.suffix != ".txt")
            assert sum(units) == rows, f"{rows} rows became another number of entries"

    def _finetune(self) -> None:
        if CORPORA.get(self.name).trainable:
            data = read_dataset(self.name, self.options)
            said = self._said()
            for clip in data.clips:
                assert clip.path.is_file() and set(clip.labels) <= set(data.classes)
                if self.name not in ("fsdd", "speech_commands"):
                    assert all(label in said for label in clip.labels)

    def _said(self) -> str:
        """All text of the tables, read without any check; folder names are included, as they can be labels."""
        texts = [str(path) for path in self.files]
        for path in self.tables:
            with contextlib.suppress(ValueError):  # this use does not read the damaged table
                texts += _texts_of(path)
        said = "\n".join(texts)
        if self.name == "aishell":
            said += said.replace(" ", "")  # a converter joins these words
        plain = said.casefold()  # ClothoAQA's accepted answers are compared without case
        joined = said.replace(" ", "")  # AISHELL's words
        return f"{said}\n{plain}\n{joined}\nWrite down what is said in this recording." + " ".join(
            self.root.parts
        )

    def _all_files(self) -> set[Path]:
        return {
            path for path in self.root.parent.rglob("*") if path.is_file() and self.out not in path.parents
        }


def _texts_of(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return _strings(pyarrow.parquet.read_table(path).to_pylist())
    raw = path.read_text("utf-8-sig")
    if path.suffix == ".jsonl":
        return [text for line in raw.split("\n") if line for text in _strings(json.loads(line))]
    if path.suffix == ".json":
        return _strings(json.loads(raw))
    return [raw, *itertools.chain(*csv.reader(io.StringIO(raw), skipinitialspace=True))]


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [text for item in items for text in _strings(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


def _count_rows(path: Path) -> int:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return sum(1 for row in csv.reader(file) if row) - 1
    if path.suffix == ".jsonl":
        return sum(1 for line in path.read_text().split("\n") if line.strip())
    items = json.loads(path.read_text("utf-8-sig"))
    return len(items["data"] if isinstance(items, dict) else items)


def _damage(rng: random.Random, path: Path, whole: bytes) -> tuple[str, bytes]:
    """One table with bytes, or with one of its values, replaced."""
    if rng.random() < 0.4:
        return damaged(rng, whole)
    if path.suffix == ".json":
        what, tree = corrupted(rng, json.loads(whole))
        return what, json.dumps(tree).encode()
    if path.suffix == ".jsonl":
        what, lines = corrupted(rng, [json.loads(line) for line in whole.splitlines()])
        return what, "".join(json.dumps(line) + "\n" for line in lines).encode() if isinstance(
            lines, list
        ) else b"x"
    if path.suffix == ".parquet":
        return _damage_parquet(rng, whole)
    delimiter = b"\t" if b"\t" in whole else b","
    rows = [line.split(delimiter) for line in whole.split(b"\n")]
    row = rng.choice(rows)
    way = rng.choice(("cell", "cell", "cell", "short", "long", "twice", "swap"))
    if way == "cell":
        text = str(rng.choice(HOSTILE_VALUES)).encode("utf-8", "surrogatepass")
        row[rng.randrange(len(row))] = rng.choice((text, b'"', b'""', b'"' + text + b'"', b" " + text))
    elif way == "short":
        row.pop()
    elif way == "long":
        row.insert(rng.randrange(len(row) + 1), rng.choice((b"", b"x", b"1")))
    elif way == "twice":
        rows.insert(rng.randrange(len(rows)), list(row))
    else:
        rng.shuffle(row)
    return way, b"\n".join(delimiter.join(cells) for cells in rows)


def _damage_parquet(rng: random.Random, whole: bytes) -> tuple[str, bytes]:
    what, rows = corrupted(rng, pyarrow.parquet.read_table(io.BytesIO(whole)).to_pylist())
    stream = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    except (pyarrow.ArrowException, OverflowError, TypeError, AttributeError, UnicodeError):
        return damaged(rng, whole)
    return what, stream.getvalue()
