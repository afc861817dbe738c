"""Scoring the model that a stage of a recipe or of the quickstart has made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.settings import check_ranges
from train.pipeline.rundir import facts_of


@dataclasses.dataclass(frozen=True)
class AnswerSettings:
    """How a model answers the questions that score it.

    Attributes:
        batch_size: Questions per batch.
        max_new_tokens: Longest answer in tokens.
        limit: Ask only the first `limit` records; None asks all.
    """

    batch_size: int = 16
    max_new_tokens: int = 64
    limit: int | None = None

    def __post_init__(self) -> None:
        counts = ("batch_size", "max_new_tokens", "limit")
        check_ranges("evaluate", self, **dict.fromkeys(counts, (1, None)))


def score_model(
    model: Path,
    data: Any,
    out: Path,
    options: AnswerSettings,
    *,
    controls: Sequence[str],
    title: str,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> None:
    """Score the model of a finished stage into `out/scores.json`; stored answers are reused.

    Args:
        model: Its directory, inside the stage's run directory.
        data: Data with references: a path, or a mapping (`alm.data.readers.base.DataSource`).
        out: Where answers and scores are written.
        options: How it answers.
        controls: Some of `eval.scoring.predictions.CONTROLS`.
        title: Name on the display.
        seed: Seed of the choice of other clips.
        trust_remote_code: Run Python code that comes with the LLM.
    """
    from alm import load
    from alm.data.readers.base import as_source, parse_source
    from alm.data.sources import open_source
    from eval.models.own import OwnModel
    from eval.reports.model_card import add_to_card
    from eval.runner.manifest import evaluate_manifest

    records = list(open_source(parse_source(data, "data")))
    answering, processor = load(model, trust_remote_code=trust_remote_code)
    scores = evaluate_manifest(
        OwnModel(answering, processor, facts_of(model.parent)["fingerprint"], options.max_new_tokens),
        records,
        out,
        controls=controls,
        batch_size=options.batch_size,
        limit=options.limit,
        title=f"score {title}",
        seed=seed,
    )
    add_to_card(
        model, answering, Path(as_source(parse_source(data, "data")).path).stem, scores, options.limit
    )
