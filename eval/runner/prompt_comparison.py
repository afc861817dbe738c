"""Measures how much a score depends on prompt and parser: runs one model with each prompt of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.text import text_table
from encoders.audio.options import applied
from eval.benchmarks import load_benchmark
from eval.benchmarks._base import OURS
from eval.models import Answerer
from eval.reports.score_table import format_interval
from eval.runner.benchmark import prepare, read_settings
from eval.runner.manifest import answer_records
from eval.scoring.predictions import HEADLINE, Prediction
from eval.scoring.scores import check_scorable, score_predictions, write_scores

Comparison = dict[str, Any]
"""Contents of `prompts.json`: `reference` (a prompt's name), and per prompt under `prompts` its `text`, `scores` by our
parser, `gaps` (the paired difference to the reference), `official` (by the published rule, where there is one) and
`choice_parse_failures`."""


def compare_prompts(
    config: str | Path, model: str | Path = "", out: str | Path | None = None, overrides: Sequence[str] = ()
) -> Comparison:
    """Run `alm eval compare-prompts`: ask every question under each prompt, and print the scores side by side.

    Every prompt has a folder of its own, so answers are reused. There are no controls.

    Args:
        config: A YAML file, or the name of a benchmark for the config shipped with it.
        model: The model, as for `eval.runner.benchmark.run_benchmark`.
        out: Folder of the prompts' folders and of `prompts.json`; None is that of the benchmark.
        overrides: `key=value` strings over the config.

    Returns:
        The comparison. Empty in processes but the first.

    Raises:
        ConfigError: The benchmark has one prompt only.
        UserError: As for `run_benchmark`.
    """
    settings = read_settings(config, overrides)
    settings = replace(settings, model=str(model) or settings.model, controls=(HEADLINE,))
    benchmark = load_benchmark(settings.benchmark)
    names = [OURS, *benchmark.prompts]
    if len(names) == 1:
        raise ConfigError(f"{benchmark.name} has one prompt; give its file `prompts` to compare")
    opened: Answerer | None = None
    answers: dict[str, list[Prediction]] = {}
    with applied(settings.audio):
        for name in names:
            place = None if out is None else Path(out) / name
            run = prepare(replace(settings, prompt=name), place, opened)
            opened = run.model
            records = run.data.records[: settings.limit]
            check_scorable(records, ranked=settings.answer_by == "rank", **run.scoring)
            lines = answer_records(opened, records, run.out_dir, **run.answering)
            if lines is not None:
                answers[name] = lines
    if not answers:
        return {}
    scores = score_predictions(
        records,
        answers[OURS],
        extra={name: answers[name] for name in names[1:]},
        limited=len(records) < len(run.data.records),
        **run.scoring,
    )
    arms = {OURS: scores["arms"][HEADLINE], **{name: scores["arms"][name] for name in names[1:]}}
    found: Comparison = {
        "benchmark": benchmark.name,
        "model_id": run.model.model_id,
        "n_records": scores["n_records"],
        "reference": OURS,
        "prompts": {
            name: {
                "text": benchmark.prompt_named(name),
                "scores": arm["scores"],
                "gaps": scores["gaps"].get(name, {}),
                "official": arm.get("official"),
                "choice_parse_failures": arm["choice_parse_failures"],
            }
            for name, arm in arms.items()
        },
    }
    folder = run.out_dir.parent if out is None else Path(out)
    write_scores(folder / "prompts.json", found)
    print(format_comparison(found))
    print(f"comparison: {folder / 'prompts.json'}")
    return found


def format_comparison(found: Comparison) -> str:
    """A plain-text table: one row per prompt and score, the parsers side by side."""
    rows = []
    for name, arm in found["prompts"].items():
        for key, interval in arm["scores"].items():
            gap = arm["gaps"].get(key)
            official = arm["official"] if key == "qa/overall" else None
            failures = arm["choice_parse_failures"]
            rows.append(
                [
                    name,
                    key,
                    format_interval(interval, key),
                    "" if gap is None else format_interval(_reversed(gap), key, signed=True),
                    ""
                    if official is None or official["strict"] is None
                    else f"{100 * official['strict']:.1f}",
                    f"{failures['n']} of {failures['of']}" if key == "qa/overall" else "",
                ]
            )
    head = ["prompt", "score", "our parser", f"minus {found['reference']}", "published rule", "not parsed"]
    return "\n".join(text_table(head, rows))


def _reversed(gap: dict[str, Any]) -> dict[str, Any]:
    """A paired difference with its sign turned, as gaps are the reference minus the other."""
    turned = {"value": gap["value"], "low": gap["high"], "high": gap["low"]}
    return {**gap, **{key: None if value is None else -value for key, value in turned.items()}}
