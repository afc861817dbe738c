"""The report of a finished evaluation: `report.md`, and `report.html` with the failures to read and to hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.data.records import Record
from eval.reports.answers import answer_sections
from eval.reports.names import without_folders
from eval.reports.pages import markdown_page
from eval.reports.published import published_sections, results_of
from eval.reports.score_report import score_sections, write_score_page
from eval.reports.sections import Section
from eval.scoring.correctness import Correctness, is_correct
from eval.scoring.predictions import HEADLINE, Prediction


def write_run_report(
    out_dir: Path,
    name: str,
    scores: Mapping[str, Any],
    records: Sequence[Record],
    lines: Sequence[Prediction],
    is_right: Correctness = is_correct,
) -> None:
    """Write both reports beside the scores.

    Args:
        out_dir: Folder of the evaluation.
        name: Title.
        scores: See `eval.scoring.scores.Scores`.
        records: What was asked, or more.
        lines: The answers.
        is_right: Decides whether an answer is right.
    """
    facts = {**scores.get("run", {}), "ids_sha256": scores["ids_sha256"]}
    published = published_sections(
        scores.get("run", {}),
        {"this run": results_of(scores)},
        n_records=scores["n_records"],
        limited=scores["limited"],
    )
    sections = [
        *score_sections(dict(scores), "Scores"),
        *published,
        Section("What was run", facts=without_folders(facts)),
    ]
    write_text_atomic(out_dir / "report.md", markdown_page(name, sections))
    answers = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
    asked = [record for record in records if record.id in answers]
    write_score_page(
        out_dir / "report.html",
        title=name,
        scores={name: dict(scores)},
        answers=answer_sections(asked, answers, is_right),
        facts=facts,
        published=published,
    )
