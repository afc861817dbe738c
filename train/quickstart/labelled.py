"""`alm quickstart --encoder DIR --llm DIR --data LABELS.csv`: a projector between two given parts, on recordings.

Nothing is pretrained and no scenes are composed: the model is trained to answer one question about each recording. A
group of recordings, for example those of one speaker, is held out.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.seeds import seed_from
from alm.common.settings import apply_overrides, check_ranges, parse_settings, read_yaml
from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import Record
from alm.data.scenes.events import Clip, read_labels
from encoders.registry import load_encoder
from eval.ablation.tokens import match_tokens
from eval.reports.score_report import Baseline
from eval.scoring.correctness import is_correct
from eval.scoring.predictions import CONTROLS
from train.pipeline.evaluation import AnswerSettings, score_model
from train.pipeline.runner import run_stage, run_step
from train.quickstart.report import logistic_baseline, summarise
from train.settings import TrainSettings

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart-labelled.yaml"
_CLIP_S = 10.0  # length of the clip with which tokens per second are counted


@dataclass(frozen=True)
class LabelledSettings:
    """The quickstart with given parts; `configs/quickstart-labelled.yaml` holds the values.

    Attributes:
        encoder: Encoder: a name, directory or hub id.
        llm: Causal LLM: directory, hub id or GGUF file.
        data: Label table of the recordings, with columns for file and class (`alm.data.scenes.events.read_labels`).
        held_out: `COLUMN=VALUE` of the recordings to ask about; None takes the last value of the column fold.
        seed: Seed of weights and sampling.
        question: The question about each recording; the answer is its category.
        tokens_per_s: Wanted LLM tokens per second of audio; the projector comes as close as it can.
        validation_share: Share of the other recordings on which the loss is computed after training; 0 to 0.5.
        align: The stage's config without inputs.
        evaluate: Scoring.
    """

    encoder: str = ""
    llm: str = ""
    data: str = ""
    held_out: str | None = None
    seed: int = 0
    question: str = "What is heard in this recording?"
    tokens_per_s: float = 12.5
    validation_share: float = 0.05
    align: dict[str, Any] = field(default_factory=dict)
    evaluate: AnswerSettings = AnswerSettings()

    def __post_init__(self) -> None:
        check_ranges("quickstart", self, tokens_per_s=(0.01, None), validation_share=(0, 0.5))
        if self.held_out is not None and not all(self.held_out.partition("=")):
            raise ConfigError(
                f"held_out: got '{self.held_out}', expected COLUMN=VALUE, for example speaker=ann"
            )


def load_labelled(values: dict[str, Any], overrides: Sequence[str]) -> LabelledSettings:
    """Shipped settings, the command's values, and the user's overrides."""
    settings = read_yaml(CONFIG) | values
    apply_overrides(settings, overrides)
    return parse_settings(LabelledSettings, settings, "quickstart")


def make_splits(out: str | Path, values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write the questions about the recordings alone; see `run_labelled`."""
    _make_splits(load_labelled(values, overrides), Path(out))


def _make_splits(settings: LabelledSettings, out: Path) -> None:
    run_step(
        out / "compose",
        {"held_out": settings.held_out, "question": settings.question, "share": settings.validation_share},
        [settings.data],
        lambda _: write_splits(settings, out / "data"),
        out / "data",
    )


def run_labelled(out: str | Path, values: dict[str, Any], overrides: Sequence[str]) -> Path:
    """Run every step that is not finished yet; returns the report's path.

    Args:
        out: Directory for everything.
        values: encoder, llm, data, held_out and seed.
        overrides: `key.sub=value` on `configs/quickstart-labelled.yaml`.

    Raises:
        UserError: Wrong settings, or recordings or parts that cannot be used.
    """
    settings, out = load_labelled(values, overrides), Path(out)
    stage = stage_settings(settings, out)  # a wrong key is found before the first step
    print("\n== 1/3 recordings", flush=True)
    _make_splits(settings, out)
    print("\n== 2/3 align and score the model", flush=True)
    model = run_stage(stage)
    score_model(
        model, out / "data" / "test.jsonl", out / "evaluate", settings.evaluate, controls=CONTROLS,
        title="the model", seed=settings.seed,
    )  # fmt: skip
    print("\n== 3/3 report", flush=True)
    files = {name: out / "data" / f"{name}.jsonl" for name in ("train", "validation", "test")}
    groups = {name: read_manifest(file) for name, file in files.items() if file.exists()}
    head = {
        "recordings": f"{Path(settings.data).name}, held out {settings.held_out or 'the last fold'}: "
        + ", ".join(f"{len(records)} {name}" for name, records in groups.items()),
        "encoder": settings.encoder,
        "llm": settings.llm,
        "seed": settings.seed,
    }
    known = [*groups["train"], *groups.get("validation", [])]
    report, table = summarise(
        out, {}, ("align",), settings.evaluate.limit, head, lambda *asked: [label_baseline(known, *asked)]
    )
    print(f"\n{table}\n\n{report}")
    print(f"try: alm ask {model} AUDIO_FILE {settings.question!r}")
    return report


def stage_settings(settings: LabelledSettings, out: Path) -> TrainSettings:
    """The config of the alignment; unless the config sets the projector's stack, it is derived from `tokens_per_s`."""
    values = {**settings.align, "stage": "align", "out": str(out / "align")}
    values |= {"encoder": settings.encoder, "llm": settings.llm}
    values["run"] = {"seed": settings.seed, **values.get("run", {})}
    used = ("train", "validation") if settings.validation_share else ("train",)
    splits = {split: [str(out / "data" / f"{split}.jsonl")] for split in used}
    values["data"] = {**splits, "feature_folder": str(out / "features"), **values.get("data", {})}
    encoder = load_encoder(settings.encoder, **values.get("encoder_options", {})).config
    projector, options = str(values.get("projector", "mlp")), values.get("projector_options", {})
    if not {"stack", "stride", "window_s", "n_queries"} & options.keys():
        values["projector_options"] = match_tokens(
            encoder, projector, options, settings.tokens_per_s, _CLIP_S
        ).options
    return parse_settings(TrainSettings, values, "quickstart.align")


def write_splits(settings: LabelledSettings, out: Path) -> dict[str, Any]:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`: one question about each recording.

    Raises:
        ManifestError: The table cannot be read, or lacks a column.
        ConfigError: No recording, or every one, is held out.
    """
    column, _, value = (settings.held_out or "fold=").partition("=")
    clips = read_labels(Path(settings.data), column)
    groups = sorted({clip.fold for clip in clips}, key=lambda name: name.zfill(9) if name.isdigit() else name)
    value = value or groups[-1]
    if value not in groups or len(groups) < 2:
        raise ConfigError(
            f"held_out: {settings.data} has {column} {', '.join(groups[:20])}; expected one of several, got '{value}'"
        )
    others = sorted(
        {clip.recording for clip in clips if clip.fold != value}, key=lambda name: seed_from(name)
    )
    n_validation = math.ceil(settings.validation_share * len(others))
    validation = set(others[:n_validation])
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for clip in clips:
        split = "test" if clip.fold == value else "validation" if clip.recording in validation else "train"
        splits[split].append(_record(settings.question, clip))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for split in ("train", "test", *(["validation"] if n_validation else [])):
        write_manifest(out / f"{split}.jsonl", splits[split])
    return {split: len(records) for split, records in splits.items()}


def _record(question: str, clip: Clip) -> dict[str, Any]:
    return {
        "id": clip.path.stem,
        "audio": str(clip.path.resolve()),
        "kind": "what",
        "question": question,
        "answer": clip.kind.replace("_", " "),
    }


def label_baseline(known: Sequence[Record], asked: Sequence[Record], answers: dict[str, str]) -> Baseline:
    """Logistic regression on log-mel statistics of the recordings that the model was trained on."""

    def labelled(records: Sequence[Record]) -> list[tuple[Path, str, str]]:
        return [(record.audio[0].path, str(record.answer), record.id) for record in records]

    return logistic_baseline(
        "what is heard, held-out recordings, accuracy",
        labelled(known),
        labelled(asked),
        [is_correct(record, answers.get(record.id, "")) for record in asked],
    )
