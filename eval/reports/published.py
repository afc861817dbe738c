"""Shows the published figures of a benchmark (`eval/benchmarks/published.yaml`) next to those of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Any

from alm.common.settings import read_yaml
from eval.benchmarks._base import OURS
from eval.reports.score_table import format_interval
from eval.reports.sections import Cell, Section, Table
from eval.scoring.predictions import HEADLINE

OFFICIAL = "official"
"""Name of the score by the benchmark's own rule in the results that `published_sections` takes."""

Results = Mapping[str, Mapping[str, Any]]
"""Score name -> value with `low` and `high`, as in `scores.json`."""


@cache
def published() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Tables of published figures by benchmark."""
    with as_file(files("eval.benchmarks").joinpath("published.yaml")) as path:
        return read_yaml(path)


def published_sections(
    run: Mapping[str, Any], results: Mapping[str, Results], *, n_records: int, limited: bool, level: int = 2
) -> list[Section]:
    """Published figures, to show below those of a run; empty if the run's benchmark or split has none.

    Args:
        run: The entry `run` of the evaluation's `scores.json`.
        results: Model name to the model's scores, `OFFICIAL` among them.
        n_records: How many questions were asked.
        limited: Whether only a part of the benchmark was asked.
        level: Level of the heading.
    """
    split = run.get("split", "")
    found = [one for one in published().get(run.get("benchmark", ""), ()) if split in one["splits"]]
    if not found:
        return []
    tables = [_table(one, split, results) for one in found]
    whole = next((one["n"][split] for one in found if split in one["n"]), None)
    asked = f"{n_records} questions" if whole is None else f"{n_records} of {whole} questions"
    part = limited or (whole is not None and n_records != whole)
    notes = [
        f"This run: {asked} of the split {split}, prompt {run.get('prompt', OURS)}, answers read by our parser, 95 % "
        "intervals over clips.",
        *(
            ["This run and the figures are about different sets of questions, so they do not compare."]
            if part
            else []
        ),
        "A published figure holds for its own prompt, parser, data version and decoding; most have no interval. A "
        "difference to it says nothing about the models alone.",
    ]
    return [Section("Published figures", tables=tables, notes=notes, level=level)]


def results_of(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The scores of the model as it is, with that of the benchmark's own rule."""
    own = scores["arms"][HEADLINE]
    found: dict[str, Mapping[str, Any]] = dict(own["scores"])
    if (own.get("official") or {}).get("value") is not None:
        found[OFFICIAL] = {"value": own["official"]["value"], "low": None, "high": None}
    return found


def _table(one: Mapping[str, Any], split: str, results: Mapping[str, Results]) -> Table:
    rows: list[list[str | Cell]] = [
        [name, *(_own(one["ours"].get(column), split, found) for column in one["columns"])]
        for name, found in results.items()
    ]
    rows += [[str(cell) for cell in row] for row in one["rows"]]
    source = f" Source: {one['source']}." if "source" in one else ""
    return Table(
        ["model", *one["columns"]],
        rows,
        one["name"],
        totals=frozenset(range(len(results))),
        note=f"{one['name']}. {one['protocol']}.{source}",
    )


def _own(key: str | None, split: str, found: Results) -> Cell:
    """The score of a run that a column is about, in percent."""
    name, _, of = (key or "").partition(" of ")
    if name not in found or of not in ("", split) or found[name]["value"] is None:
        return Cell("–")
    value, _, interval = format_interval(
        {end: found[name][end] for end in ("value", "low", "high")}, "qa/"
    ).partition(" ")
    return Cell(value, interval)
