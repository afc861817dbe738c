"""`alm quickstart`: data, a small LLM, an encoder, alignment, tuning, scores and a report, each step resumable."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.settings import apply_overrides, dotted, parse_settings, read_yaml, set_dotted
from alm.configs.shipped import CONFIGS
from alm.data.records import Record
from alm.data.scenes.compose import ComposeConfig
from alm.data.sources import open_records
from encoders import load_encoder
from eval.reports.score_report import Baseline
from eval.scoring.predictions import CONTROLS
from projectors.registry import check_projector
from train.engine.parallel import Work, run_side_by_side
from train.pipeline.evaluation import AnswerSettings, score_model
from train.pipeline.rundir import MARKER
from train.pipeline.runner import run_stage, run_step
from train.quickstart.report import recording_baseline, scene_facts, summarise
from train.settings import TrainSettings
from train.stages.compose import compose_scenes
from train.stages.text_llm import train_small_llm
from train.stages.training import TrainingStage
from train.text_llm.config import TextLLMConfig
from train.tune.stage import cached_features, caches_features

QUICKSTART_STAGES = ("pretrain", "align", "instruct")


@dataclass(frozen=True)
class ArmSettings:
    """The settings in which a model differs from the main one.

    Attributes:
        pretrained: False skips the encoder's pretraining.
        align: Keys of the alignment config that replace the main model's.
        instruct: The same for instruction tuning.
    """

    pretrained: bool = True
    align: dict[str, Any] = field(default_factory=dict)
    instruct: dict[str, Any] = field(default_factory=dict)


MAIN = ArmSettings()


@dataclass(frozen=True)
class QuickstartSettings:
    """The whole quickstart; `configs/quickstart.yaml` holds the values that fit two CPU cores.

    Attributes:
        seed: Seed of data, weights and sampling.
        encoder: An encoder (name, hub id or directory) in place of the one pretrained here; arms without pretraining
            are skipped.
        llm: A causal LLM (hub id or directory) in place of the small one trained here.
        compose: The scenes.
        text_llm: The small LLM.
        pretrain: The encoder's contrastive pretraining (a stage config without inputs).
        align: Alignment.
        instruct: Instruction tuning.
        evaluate: Scoring.
        arms: Further models by name, each as `ArmSettings`; they are trained and compared with the main one.
    """

    seed: int = 0
    encoder: str | None = None
    llm: str | None = None
    compose: ComposeConfig = ComposeConfig()
    text_llm: TextLLMConfig = TextLLMConfig()
    pretrain: dict[str, Any] = field(default_factory=dict)
    align: dict[str, Any] = field(default_factory=dict)
    instruct: dict[str, Any] = field(default_factory=dict)
    evaluate: AnswerSettings = AnswerSettings(batch_size=32, max_new_tokens=48)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)

    def arm(self, name: str) -> ArmSettings:
        """The settings of an arm; "" is the main model."""
        return parse_settings(ArmSettings, self.arms[name], f"quickstart.arms.{name}") if name else MAIN

    @property
    def untrained(self) -> str:
        """The encoder before pretraining: its registry name (or weights to start from)."""
        return str(self.pretrain["encoder"])


def load_quickstart(data: str | None, seed: int, overrides: Sequence[str]) -> QuickstartSettings:
    """Shipped settings, those for recordings where `data` is given, and the user's overrides."""
    values = read_yaml(CONFIGS / "quickstart.yaml")
    if data is not None:
        for key, value in dotted(read_yaml(CONFIGS / "quickstart-recordings.yaml")):
            set_dotted(values, key, value)
        set_dotted(values, "compose.labels_csv", str(Path(data).resolve()))
    values["seed"] = seed
    set_dotted(values, "compose.seed", seed)
    set_dotted(values, "text_llm.seed", seed)
    apply_overrides(values, overrides)
    return parse_settings(QuickstartSettings, values, "quickstart")


def stage_settings(
    settings: QuickstartSettings, out: Path, stage: str, start: str, llm: str = "", arm: str = ""
) -> TrainSettings:
    """The config of one stage of the quickstart.

    Args:
        settings: All settings.
        out: The quickstart's directory.
        stage: pretrain, align or instruct.
        start: What the stage starts from: encoder (pretrain, align) or model directory (instruct).
        llm: The LLM to align to.
        arm: Name of the arm; "" is the main model.
    """
    values: dict[str, Any] = getattr(settings, stage) | getattr(settings.arm(arm), stage, {})
    data: dict[str, Any] = {
        split: [str(out / "data" / f"{split}.jsonl")] for split in ("train", "validation")
    }
    if stage != "pretrain":
        data["feature_folder"] = str(out / "features")
    values |= {"stage": stage, "out": str(arm_folder(out, stage, arm))}
    values["run"] = {"seed": settings.seed, **values.get("run", {})}
    values["data"] = {**data, **values.get("data", {})}
    if stage == "instruct":
        values["model"] = start
    else:
        values["encoder"] = start
    if stage == "align":
        values["llm"] = llm
    if stage == "align" and start == settings.untrained:  # untrained: built from its options
        values["encoder_options"] = settings.pretrain.get("encoder_options", {})
    return parse_settings(TrainSettings, values, f"quickstart.{stage}")


def run_quickstart(out: str | Path, data: str | None, seed: int, overrides: Sequence[str]) -> Path:
    """Run every step that is not finished yet; returns the report's path.

    Independent steps run at the same time: first the language model and the encoder, then the main model and the
    models that it is compared with.

    Args:
        out: Directory for everything.
        data: A label table of recordings; None generates the sounds.
        seed: Seed of data, weights and sampling.
        overrides: `key.sub=value` on `configs/quickstart.yaml`.

    Raises:
        UserError: Unwritable directory, wrong settings, unusable recordings.
    """
    started = time.perf_counter()
    settings, out = load_quickstart(data, seed, overrides), Path(out)
    arms = ("", *(name for name in settings.arms if settings.arm(name).pretrained or not settings.encoder))
    for name, arm in itertools.product(QUICKSTART_STAGES, arms):  # a wrong key is found before the first step
        stage = stage_settings(settings, out, name, settings.untrained, "llm", arm)
        check_projector(stage.projector, stage.projector_options)
    title("1/4", "compose scenes")
    make_scenes(settings, out)
    title("2/4", "language model and encoder")
    first: list[Work] = [] if settings.llm else [(make_llm, (settings, out))]
    run_side_by_side([*first, (pretrain_encoder, (settings, out))])
    title("3/4", f"align, tune and score {', '.join(arm or 'the model' for arm in arms)}")
    run_side_by_side([(train_arm, (settings, out, arm)) for arm in arms])
    title("4/4", "report")
    answers = {arm: arm_folder(out, "evaluate", arm) for arm in arms[1:]}
    compose = settings.compose

    def baselines(asked: Sequence[Record], said: dict[str, str]) -> list[Baseline]:
        return [recording_baseline(compose, asked, said)] if compose.labels_csv else []

    stages = ("text_llm", "pretrain", "align", "instruct")
    head = scene_facts(compose, settings.seed)
    report, table = summarise(out, answers, stages, settings.evaluate.limit, head, baselines)
    print(f"\n{table}\n\n{report}  ({time.perf_counter() - started:.0f} s)")
    print(f'try: alm ask {model_dir(out)} AUDIO_FILE "What can be heard first?"')
    return report


def make_inputs(out: str | Path, data: str | None, seed: int, overrides: Sequence[str]) -> None:
    """Make only the inputs of the stages: the scenes (`out/data`) and the small LLM (`out/llm`)."""
    settings = load_quickstart(data, seed, overrides)
    make_scenes(settings, Path(out))
    if not settings.llm:
        make_llm(settings, Path(out))


def title(number: str, text: str) -> None:
    """Announce a step."""
    print(f"\n== {number} {text}", flush=True)


def arm_folder(out: Path, step: str, arm: str = "") -> Path:
    """Where a step of an arm writes; the main model's steps have their bare names."""
    return out / (f"{arm}-{step}" if arm else step)


def model_dir(out: Path) -> Path:
    """The trained main model."""
    return out / "instruct" / "model"


def make_scenes(settings: QuickstartSettings, out: Path) -> None:
    """`out/data`: scenes with captions and questions in three splits."""
    config, data = settings.compose, out / "data"
    inputs = [config.labels_csv] if config.labels_csv else []
    run_step(
        out / "compose", dataclasses.asdict(config), inputs, lambda _: compose_scenes(config, data), data
    )


def make_llm(settings: QuickstartSettings, out: Path) -> None:
    """`out/llm`: a small LLM that answers questions about scenes described in words."""
    inputs = [out / "data" / "compose.json"]
    run_step(
        out / "text_llm",
        dataclasses.asdict(settings.text_llm),
        inputs,
        lambda folder: train_small_llm(settings.compose, settings.text_llm, out / "llm", folder),
        out / "llm",
        resumes=TrainingStage.resumes,
    )


def pretrain_encoder(settings: QuickstartSettings, out: Path) -> None:
    """`out/pretrain/encoder`, unless one is given; then caches its tokens of all clips, in parallel with `make_llm`."""
    folder = settings.encoder or str(run_stage(stage_settings(settings, out, "pretrain", settings.untrained)))
    aligned = stage_settings(settings, out, "align", folder, "llm")
    if (out / "align" / MARKER).is_file():  # alignment has used the tokens already
        return
    encoder = load_encoder(folder).eval()
    if caches_features(aligned, encoder) and not aligned.data.augment.any:  # versions depend on the projector
        data = aligned.data
        cached_features(aligned, encoder, open_records(data.train), open_records(data.validation))


def train_arm(settings: QuickstartSettings, out: Path, arm: str) -> None:
    """Align, tune and score one arm; the main model is also scored under its controls."""
    pretrained = settings.arm(arm).pretrained
    trained = settings.encoder or str(out / "pretrain" / "encoder")
    encoder = trained if pretrained else settings.untrained
    llm = settings.llm or str(out / "llm")
    aligned = run_stage(stage_settings(settings, out, "align", encoder, llm, arm))
    model = run_stage(stage_settings(settings, out, "instruct", str(aligned), arm=arm))
    score_model(
        model,
        out / "data" / "test.jsonl",
        arm_folder(out, "evaluate", arm),
        settings.evaluate,
        controls=CONTROLS[:1] if arm else CONTROLS,
        title=arm or "the model",
        seed=settings.seed,
    )
