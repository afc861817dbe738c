"""The report of the quickstart: scores of all arms, curves, answers, and for recordings a simple baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alm.common.json_text import read_json, read_log
from alm.data.manifest import read_manifest
from alm.data.records import Record
from alm.data.scenes.compose import ComposeConfig, build_bank
from alm.data.scenes.events import RecordedEvents
from encoders.audio import load_audio
from eval.reports.answers import answer_sections
from eval.reports.score_report import Baseline, write_score_page
from eval.reports.score_table import format_scores
from eval.scoring.baselines import logmel_baseline
from eval.scoring.correctness import is_correct
from eval.scoring.predictions import read_predictions
from eval.scoring.scores import score_predictions, write_scores
from eval.scoring.stats import mean_interval
from train.pipeline.rundir import MARKER, facts_of

SAMPLE_RATE_HZ = 16000

Baselines = Callable[[Sequence[Record], dict[str, str]], list[Baseline]]
"""Takes the test records and the model's answers by id; returns scores of simple systems on the same recordings."""


def summarise(
    out: Path,
    arms: dict[str, Path],
    stages: Sequence[str],
    limit: int | None,
    head: dict[str, object],
    baselines_of: Baselines,
) -> tuple[Path, str]:
    """Write `report.html`, `scores.json` and `predictions.jsonl` into `out`.

    Args:
        out: The quickstart's directory.
        arms: Folders with the answers of the models to compare with, by name.
        stages: The stages that were trained, in order.
        limit: Number of test records that were asked about; None means all.
        head: Description of the run, for the report's head.
        baselines_of: Simple systems to compare with.

    Returns:
        The report's path, and the score table as text.
    """
    records = read_manifest(out / "data" / "test.jsonl")
    asked = records[:limit]
    lines = read_predictions(out / "evaluate" / "predictions.jsonl")
    extra = {name: read_predictions(folder / "predictions.jsonl") for name, folder in arms.items()}
    scores = score_predictions(asked, lines, extra=extra, limited=len(asked) < len(records))
    answers = {line["id"]: line["prediction"] for line in lines if line["control"] == "none"}
    baselines = baselines_of(asked, answers)
    write_scores(out / "scores.json", scores | {"baselines": [dataclasses.asdict(b) for b in baselines]})
    (out / "predictions.jsonl").write_bytes((out / "evaluate" / "predictions.jsonl").read_bytes())
    write_score_page(
        out / "report.html",
        title="Quickstart: an audio-language model and whether it listens",
        scores={"test split": scores},
        curves={stage: curve for stage in stages if (curve := list(read_log(out / stage / "metrics.jsonl")))},
        answers=answer_sections(
            asked, answers, captions={one.clip: one.captions for one in asked if one.captions}
        ),
        facts=facts(out, stages, head),
        baselines=baselines,
    )
    table = format_scores(scores)
    for baseline in baselines:
        table += f"\n{baseline.score} (n = {baseline.n}): model {baseline.model_value:.1%}, "
        table += f"{baseline.name} {baseline.value:.1%}"
    return out / "report.html", table


def scene_facts(compose: ComposeConfig, seed: int) -> dict[str, object]:
    """Facts about the composed scenes, for the report's head."""
    return {
        "sounds": Path(compose.labels_csv).name if compose.labels_csv else "generated",
        "scenes": f"{compose.n_train} train, {compose.n_validation} validation, {compose.n_test} test",
        "seed": seed,
    }


def facts(out: Path, stages: Sequence[str], head: dict[str, object]) -> dict[str, object]:
    """Facts about the run, for the report's head."""
    found = dict(head)
    for stage in stages:
        if (out / stage / MARKER).is_file():
            kept = facts_of(out / stage)
            found[f"{stage}: seconds"] = kept["seconds"]
            if "loss_other_audio" in kept:
                found[f"{stage}: held-out loss, right / another clip's audio"] = (
                    f"{kept['loss']:.3f} / {kept['loss_other_audio']:.3f}"
                )
            if "view_retrieval" in kept:
                found[f"{stage}: held-out view retrieval"] = (
                    f"{kept['view_retrieval']:.1%} (chance {kept['view_retrieval_chance']:.1%})"
                )
    packages = read_json(out / "compose" / "environment.json")["packages"]
    found["versions"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return found


def recording_baseline(
    compose: ComposeConfig, records: Sequence[Record], answers: dict[str, str]
) -> Baseline:
    """Logistic regression on log-mel statistics, tested on the single recordings that the model is asked to name.

    It is fitted on all recordings outside of the held-out folds, including those for validation.
    """
    bank = build_bank(compose)
    assert isinstance(bank, RecordedEvents)
    known = [clip for split in ("train", "validation") for clip in bank.for_split(split).clips]
    held_out = {str(clip.path.resolve()): clip for clip in bank.for_split("test").clips}
    asked = [record for record in records if record.kind == "what" and record.meta.get("whole_clip")]
    tested = [held_out[str(Path(record.meta["sources"][0]).resolve())] for record in asked]
    return logistic_baseline(
        "what is this sound, unseen recordings, accuracy",
        [(clip.path, clip.kind, clip.recording) for clip in known],
        [(clip.path, clip.kind, record.clip) for clip, record in zip(tested, asked, strict=True)],
        [is_correct(record, answers.get(record.id, "")) for record in asked],
    )


def logistic_baseline(
    score: str,
    known: Sequence[tuple[Path, str, str]],
    tested: Sequence[tuple[Path, str, str]],
    model_right: Sequence[bool],
) -> Baseline:
    """Logistic regression on log-mel statistics of recordings.

    Args:
        score: Name of the score.
        known: Training files, with their labels and the recordings that they were cut from.
        tested: Test files, with their labels and clips.
        model_right: For each test file, whether the model's answer is right.
    """

    def read(some: Sequence[tuple[Path, str, str]]) -> list[tuple[Any, str]]:
        return [(load_audio(file, SAMPLE_RATE_HZ), label) for file, label, _ in some]

    recordings = [recording for *_, recording in known]
    result = logmel_baseline(read(known), read(tested), SAMPLE_RATE_HZ, groups=recordings)
    flags = [float(p == label) for p, (_, label, _) in zip(result["predictions"], tested, strict=True)]
    interval = mean_interval(flags, [clip for *_, clip in tested], proportion=True)
    return Baseline(
        name="logistic regression on mean and sd of the log-mel",
        score=score,
        value=result["accuracy"],
        n=len(tested),
        low=interval.low,
        high=interval.high,
        model_value=sum(model_right) / max(len(model_right), 1),
    )
