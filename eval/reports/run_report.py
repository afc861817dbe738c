"""What a finished evaluation is shown as: `report.md`, and `report.html` with the hardest clips to listen to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.data.records import Record
from eval.reports.html_report import EXAMPLE_HZ, Example, sound_of, write_report
from eval.reports.score_table import arm_remarks, format_interval
from eval.runner.predictions import HEADLINE, Prediction
from eval.scoring.arm_scores import is_correct

# Clips in the page; each holds its sound.
_MOST_EXAMPLES = 6


def write_run_report(
    out_dir: Path,
    name: str,
    scores: Mapping[str, Any],
    records: Sequence[Record],
    lines: Sequence[Prediction],
) -> None:
    """Write both reports beside the scores.

    Args:
        out_dir: Folder of the run.
        name: What was evaluated.
        scores: What `score_predictions` returned.
        records: The questions.
        lines: The answers.
    """
    write_text_atomic(out_dir / "report.md", markdown(name, scores))
    facts = {**scores.get("run", {}), "ids_sha256": scores["ids_sha256"][:16]}
    write_report(
        out_dir / "report.html",
        title=name,
        scores={name: dict(scores)},
        examples=hardest_examples(records, lines),
        facts=facts,
    )


def markdown(name: str, scores: Mapping[str, Any]) -> str:
    """Scores as a Markdown page: all arms, gaps, breakdowns, and what has to be said."""
    arms = [HEADLINE, *(arm for arm in scores["arms"] if arm != HEADLINE)]
    head = ["score", "n", *("model" if arm == HEADLINE else arm.replace("_", " ") for arm in arms)]
    head += [f"gap to {arm.replace('_', ' ')}" for arm in scores["gaps"]]
    lines = [
        f"# {name}",
        "",
        f"{scores['n_records']} records, {scores['n_clips']} clips, 95 % intervals.",
        "",
    ]
    lines += [_row(head), _row(["---"] * len(head))]
    for key, own in scores["arms"][HEADLINE]["scores"].items():
        cells = [key, str(own["n"]), *(_cell(scores["arms"][arm]["scores"].get(key), key) for arm in arms)]
        cells += [_cell(gaps.get(key), key, signed=True) for gaps in scores["gaps"].values()]
        lines.append(_row(cells))
    for group, values in scores["arms"][HEADLINE].get("groups", {}).items():
        keys = list(dict.fromkeys(key for found in values.values() for key in found))
        lines += ["", f"## By {group}", "", _row([group, "n", *keys]), _row(["---"] * (2 + len(keys)))]
        for value, found in values.items():
            n = str(next(iter(found.values()))["n"])
            lines.append(_row([value, n, *(_cell(found.get(key), key) for key in keys)]))
    remarks = [*scores["notes"], *arm_remarks(scores)]
    remarks += [f"{metric} is absent: {why}" for metric, why in scores.get("absent", {}).items()]
    remarks.append(f"Computed by {', '.join(sorted(set(scores['backends'].values())))}.")
    remarks += [f"{key}: {value}" for key, value in scores.get("run", {}).items()]
    remarks.append(f"ids_sha256: {scores['ids_sha256']}")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def _cell(interval: Mapping[str, Any] | None, key: str, signed: bool = False) -> str:
    return "–" if interval is None else format_interval(interval, key, signed=signed)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def hardest_examples(records: Sequence[Record], lines: Sequence[Prediction]) -> list[Example]:
    """Clips whose questions were answered wrong, those with most wrong answers first; captions where all is right."""
    said = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
    asked = [record for record in records if record.id in said and record.references]
    verdicts = {
        record.id: None if record.captions else is_correct(record, said[record.id]) for record in asked
    }
    n_wrong: dict[str, int] = {}
    for record in asked:
        n_wrong[record.clip] = n_wrong.get(record.clip, 0) + (verdicts[record.id] is False)
    asked.sort(key=lambda record: (verdicts[record.id] is not False, -n_wrong[record.clip]))
    examples: list[Example] = []
    shown: set[str] = set()
    for record in asked:
        if len(examples) == _MOST_EXAMPLES:
            break
        if record.clip in shown:
            continue
        shown.add(record.clip)
        waveform = sound_of(record.audio[0])
        if waveform is None:
            continue
        examples.append(
            Example(
                waveform,
                EXAMPLE_HZ,
                record.question,
                record.references[0],
                said[record.id],
                kind=record.kind,
                captions=record.captions[1:],
                correct=verdicts[record.id],
                title=record.clip,
            )
        )
    return examples
