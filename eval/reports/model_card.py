"""Scores of an evaluation in the card of the model that was evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alm.hub.model_card import README, Score, is_ours, read_card, scores_in, write_card
from eval.reports.score_table import format_interval
from eval.scoring.predictions import HEADLINE


def add_to_card(
    folder: Path, model: Any, benchmark: str, scores: Mapping[str, Any], limit: int | None = None
) -> None:
    """Put scores into a model's card, in place of earlier ones of the same benchmark.

    The card stays unchanged if it was not generated, if it cannot be written, or if it is a link into the hub's cache.

    Args:
        folder: The model's directory.
        model: The model that was loaded from it.
        benchmark: Name of the benchmark.
        scores: See `eval.scoring.scores.Scores`.
        limit: Number of records that were asked, if it was limited.
    """
    path = folder / README
    text = read_card(path)
    if not is_ours(text) or path.is_symlink() or not os.access(path, os.W_OK) or not scores:
        return
    name = benchmark if limit is None else f"{benchmark} (first {limit} records)"
    kept = [row for row in scores_in(text) if row.benchmark != name]
    write_card(folder, model, scores=[*kept, *_rows(name, scores)])


def _rows(benchmark: str, scores: Mapping[str, Any]) -> list[Score]:
    arms = {HEADLINE: scores["arms"][HEADLINE], **scores["arms"]}
    return [
        Score(
            benchmark=benchmark,
            name=name,
            value=float(own["value"]),
            n=int(own["n"]),
            values={
                "model" if arm == HEADLINE else arm: format_interval(found["scores"][name], name)
                for arm, found in arms.items()
                if name in found["scores"]
            },
        )
        for name, own in arms[HEADLINE]["scores"].items()
        if own["value"] is not None
    ]
