"""The report of a finished evaluation: `report.md`, and `report.html` with the hardest clips to listen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.data.records import Record
from eval.reports.pages import markdown_page
from eval.reports.score_report import example_of, score_sections, write_score_page
from eval.reports.sections import Example, Section
from eval.scoring.correctness import is_correct
from eval.scoring.predictions import HEADLINE, Prediction

# Clips in the page; each holds its sound.
_MAX_EXAMPLES = 6


def write_run_report(
    out_dir: Path,
    name: str,
    scores: Mapping[str, Any],
    records: Sequence[Record],
    lines: Sequence[Prediction],
) -> None:
    """Write both reports beside the scores."""
    facts = {**scores.get("run", {}), "ids_sha256": scores["ids_sha256"]}
    sections = [*score_sections(dict(scores), "Scores"), Section("What was run", facts=facts)]
    write_text_atomic(out_dir / "report.md", markdown_page(name, sections))
    write_score_page(
        out_dir / "report.html",
        title=name,
        scores={name: dict(scores)},
        examples=hardest_examples(records, lines),
        facts=facts,
    )


def hardest_examples(records: Sequence[Record], lines: Sequence[Prediction]) -> list[Example]:
    """Clips whose questions were answered wrong, those with most wrong answers first; captions where all is right."""
    answers = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
    asked = [record for record in records if record.id in answers and record.references]
    verdicts = {
        record.id: None if record.captions else is_correct(record, answers[record.id]) for record in asked
    }
    n_wrong: dict[str, int] = {}
    for record in asked:
        n_wrong[record.clip] = n_wrong.get(record.clip, 0) + (verdicts[record.id] is False)
    asked.sort(key=lambda record: (verdicts[record.id] is not False, -n_wrong[record.clip]))
    examples: list[Example] = []
    shown: set[str] = set()
    for record in asked:
        if record.clip not in shown and len(examples) < _MAX_EXAMPLES:
            shown.add(record.clip)
            example = example_of(record, answers[record.id], record.captions[1:])
            examples += [example] if example else []
    return examples
