"""The settings of an ablation; `configs/ablation/` has ready-made ones."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, shown
from alm.common.settings import apply_overrides, parse_settings, read_yaml, set_dotted
from alm.configs.shipped import find_config
from eval.metrics import find_metric
from eval.scoring.answer_scores import ALWAYS, BALANCED
from eval.scoring.predictions import CONTROLS, HEADLINE

STAGES = ("pretrain", "align", "instruct")
UNITS = ("steps", "tokens", "flops")

Patch = dict[str, Any]
"""The values that a level of an axis sets: stage -> config values, or null for a stage that does not run."""


@dataclass(frozen=True)
class InputSettings:
    """Inputs of all arms.

    Attributes:
        scenes: Settings of `alm quickstart` (`compose`, `text_llm`): scenes are composed and a small LLM is trained
            for all arms, and every other input is taken from there. None: the inputs below.
        recordings: Label table of recordings to make the scenes from; None generates the sounds. Without `scenes`,
            each recording has one question, whose answer is its category; `llm` is needed then, and `labels` is this
            table.
        held_out: `COLUMN=VALUE` of the recordings to test on, without `scenes`; None takes the last fold.
        question: The question about each recording, without `scenes`; None is the quickstart's question.
        train: Manifests.
        validation: Manifests; they choose the learning rate.
        test: The benchmark's data, as `alm eval` takes it.
        llm: Causal LLM: directory, hub id or GGUF file.
        labels: `scenes.jsonl` or a label table, for the oracle and the linear probe. None disables both.
        seed: Seed of the scenes and the small LLM.
    """

    scenes: dict[str, Any] | None = None
    recordings: str | None = None
    held_out: str | None = None
    question: str | None = None
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: str | None = None
    llm: str | None = None
    labels: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("train", "validation", "test", "llm", "labels") if getattr(self, name)]
        if self.scenes is not None and given:
            raise ConfigError(f"inputs: scenes brings its own {', '.join(given)}; give one or the other")
        if self.scenes is not None or not self.recordings:
            alone = [name for name in ("held_out", "question") if getattr(self, name)]
            if alone:
                raise ConfigError(
                    f"inputs.{alone[0]}: needs inputs.recordings without inputs.scenes; remove it"
                )
        if self.scenes is not None:
            return
        if self.recordings:
            given = [name for name in given if name not in ("llm", "labels")]
            if given or not self.llm:
                raise ConfigError(
                    f"inputs.recordings: makes train, validation and test; remove inputs.{given[0]}"
                    if given
                    else "inputs.llm: give a directory or hub id; questions about recordings need an LLM"
                )
        elif not (self.train and self.validation and self.test and self.llm):
            raise ConfigError(
                "inputs: give scenes, or all of train, validation, test and llm, or recordings and llm"
            )


@dataclass(frozen=True)
class Axes:
    """The grid: every combination of one level per axis is an arm. A level has a name and the values that it sets.

    Attributes:
        encoder: Encoders.
        projector: Projectors.
        layer: Which of the encoder's layers are used.
        tuning: Trainable parts.
        llm: Language models.
        masking: Masks of the encoder's pretraining.
        data_size: Shares of the training clips (0 to 1); smaller ones are part of the larger.
    """

    encoder: dict[str, Patch] = field(default_factory=dict)
    projector: dict[str, Patch] = field(default_factory=dict)
    layer: dict[str, Patch] = field(default_factory=dict)
    tuning: dict[str, Patch] = field(default_factory=dict)
    llm: dict[str, Patch] = field(default_factory=dict)
    masking: dict[str, Patch] = field(default_factory=dict)
    data_size: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for share in self.data_size:
            if not 0 < share <= 1:
                raise ConfigError(f"axes.data_size: got {share}, expected shares above 0 and at most 1")
        for axis in dataclasses.fields(self):
            levels = getattr(self, axis.name)
            for name in levels if axis.name != "data_size" else ():
                check_patch(f"axes.{axis.name}.{name}", levels[name] or {})


@dataclass(frozen=True)
class BudgetSettings:
    """How long an arm trains.

    Attributes:
        unit: `steps`, `tokens` (of the LLM: prompts, audio, answers) or `flops`; those of one step are measured.
        amount: Stage -> amount in this unit; a stage that is not named trains as long as its config says.
    """

    unit: str = "steps"
    amount: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"budget.unit: got '{self.unit}', expected one of {', '.join(UNITS)}")
        for stage, amount in self.amount.items():
            if stage not in STAGES or amount <= 0:
                raise ConfigError(
                    f"budget.amount.{stage}: got {amount}; expected one of {', '.join(STAGES)}, above 0"
                )
        if self.unit == "tokens" and "pretrain" in self.amount:
            raise ConfigError("budget.amount.pretrain: pretraining has no LLM tokens; use steps or flops")


@dataclass(frozen=True)
class TrackSettings:
    """LLM tokens per second of audio.

    Attributes:
        native: Run every arm with its projector as configured.
        matched_per_s: Tokens per second. Also run every arm with the value of the projector's option (`stack`,
            `stride`, `window_s`, `n_queries`) that comes nearest to this rate; None has no such arms.
        clip_s: Length in seconds of the clip with which tokens are counted.
        tolerance: Relative difference up to which an arm counts as matched; the report marks all others.
    """

    native: bool = True
    matched_per_s: float | None = None
    clip_s: float = 5.12
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if not self.native and self.matched_per_s is None:
            raise ConfigError("tracks: neither native nor matched_per_s; switch one on")
        if self.matched_per_s is not None and self.matched_per_s <= 0:
            raise ConfigError(f"tracks.matched_per_s: got {self.matched_per_s}, expected above 0")


def metric_of(score: str) -> tuple[str, ...]:
    """The metric that gives a score such as `caption/bleu_1`; empty for accuracies."""
    prefix, _, name = score.partition("/")
    return (name,) if prefix in ("answer", "caption") or score == f"qa/{BALANCED}" else ()


@dataclass(frozen=True)
class ScoringSettings:
    """How arms are scored.

    Attributes:
        benchmark: A benchmark's name or config.
        options: Settings of `alm eval`, such as `batch_size` and `limit`.
        score: The score that arms are compared by; higher must be better.
        controls: Controls to run for every arm: `no_audio`, `other_clip`.
        control_seeds: Number of seeds for which the controls are run.
    """

    benchmark: str = "manifest"
    options: dict[str, Any] = field(default_factory=dict)
    score: str = "qa/overall"
    controls: tuple[str, ...] = CONTROLS[1:]
    control_seeds: int = 1

    def __post_init__(self) -> None:
        for name in metric_of(self.score):
            if name not in ALWAYS and find_metric(name)[1].lower_is_better:
                raise ConfigError(
                    f"scoring.score: '{self.score}' counts errors; give a score for which higher is better"
                )
        for control in self.controls:
            if control not in CONTROLS or control == HEADLINE:
                raise ConfigError(
                    f"scoring.controls: got '{control}', expected some of {', '.join(CONTROLS[1:])}"
                )


@dataclass(frozen=True)
class ProxySettings:
    """Cheap proxies that might predict an arm's score.

    Attributes:
        probe: Linear probe of the encoder before it is trained in the arm; needs `inputs.labels` or `inputs.scenes`.
        probe_clips: Largest number of clips that the probe is fitted on.
        early_share: The early score is the training loss after this share of the first tuned stage.
    """

    probe: bool = True
    probe_clips: int = 500
    early_share: float = 0.25


@dataclass(frozen=True)
class AblationSettings:
    """One ablation.

    Attributes:
        out: Its folder.
        variables: Values that replace `{NAME}` in the arms' configs, for example directories. One without a value must
            be given on the command line: `variables.NAME=DIR`.
        work: Folder of its steps and cached features; "" is `out`. Ablations with the same folder share their steps: a
            step that several of them need runs once.
        inputs: Inputs of all arms.
        stages: Stage -> values of its config (`config: FILE.yaml` starts from a file's values).
        axes: The grid.
        baseline: The arm that the others are compared with.
        references: Further arms by name, which every table shows. An arm has the values of the first level of every
            axis, overridden by those given here.
        floor: Arm marked as the floor in every table (an untrained encoder); "" marks none.
        ceiling: Arm marked as the ceiling (the oracle); "" marks none.
        seeds: Seeds of the tuned stages; rank stability needs three or more.
        pretrain_per_seed: Pretrain the encoder for every seed; otherwise once per arm.
        lr_scales: Factors on the tuned stages' learning rates, tried with the first seed; each arm takes the one with
            the best validation loss.
        budget: How long to train.
        tracks: Tokens per second.
        scoring: How arms are scored.
        proxies: Cheap metrics that might predict the score.
        jobs: Processes at a time; 0 is one per core, or one where there is an accelerator.
        warm_start: Fork the steps' processes from one that has imported the libraries, which saves seconds per step;
            results are the same. False starts a new interpreter for every step, as is done outside Linux.
    """

    out: str
    baseline: str
    inputs: InputSettings
    stages: dict[str, dict[str, Any]]
    variables: dict[str, str | None] = field(default_factory=dict)
    work: str = ""
    axes: Axes = Axes()
    references: dict[str, Patch] = field(default_factory=dict)
    floor: str = ""
    ceiling: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_per_seed: bool = False
    lr_scales: tuple[float, ...] = (1.0,)
    budget: BudgetSettings = BudgetSettings()
    tracks: TrackSettings = TrackSettings()
    scoring: ScoringSettings = ScoringSettings()
    proxies: ProxySettings = ProxySettings()
    jobs: int = 0
    warm_start: bool = True

    def __post_init__(self) -> None:
        check_patch("stages", dict(self.stages))
        if not isinstance(self.references, dict):
            raise ConfigError(f"references: got {self.references!r}, expected arms by name; remove the key")
        for name, patch in self.references.items():
            check_patch(f"references.{name}", patch)
        if not any(stage in self.stages for stage in STAGES[1:]):
            raise ConfigError("stages: neither align nor instruct; an arm needs one that trains a model")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: got {list(self.seeds)}, expected different seeds, at least one")
        if not self.lr_scales or min(self.lr_scales) <= 0:
            raise ConfigError(f"lr_scales: got {list(self.lr_scales)}, expected factors above 0")


def check_patch(where: str, patch: Patch) -> None:
    """Refuse anything that is not stage -> values (or null)."""
    for stage, values in patch.items():
        if stage not in STAGES or not (values is None or isinstance(values, dict)):
            raise ConfigError(
                f"{where}.{stage}: got {values!r}; expected one of {', '.join(STAGES)} with a section of values"
            )


def load_ablation(path: str | Path, overrides: list[str], data: str | None) -> AblationSettings:
    """Read an ablation's config.

    Args:
        path: The YAML file, or the name of a shipped one; `extends:` names another that it changes, and `config:` in
            a stage a config of `alm train`: a file beside it, or a shipped one.
        overrides: `key.sub=value`.
        data: A label table of recordings to make the scenes from, in place of generated sounds.

    Raises:
        ConfigError: The config is invalid.
    """
    path = find_config(path, ("ablation",))
    values = _extended(path)
    if data is not None:
        set_dotted(values, "inputs.recordings", str(Path(data).resolve()))
    apply_overrides(values, overrides)
    stages: dict[str, Any] = values["stages"] if isinstance(values.get("stages"), dict) else {}
    for stage, given in stages.items():
        if isinstance(given, dict) and "config" in given:
            ground = read_yaml(_named_in(path, given.pop("config"), ("",)))
            stages[stage] = merged(ground, given)
    return parse_settings(AblationSettings, values, str(path))


def _extended(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A config merged over the one that it extends; axes and references replace the other's."""
    chain = (*extended_by, Path(os.path.realpath(path)))
    if chain[-1] in extended_by:
        raise ConfigError(f"{path}: extends itself, by way of {' -> '.join(one.name for one in chain)}")
    values = read_yaml(path)
    if "extends" not in values:
        return values
    ground = _extended(_named_in(path, values.pop("extends"), ("ablation",)), chain)
    for key in ("axes", "references"):
        if key in values:
            ground.pop(key, None)
    return merged(ground, values)


def _named_in(path: Path, name: Any, folders: tuple[str, ...]) -> Path:
    """The file that a config names: beside it, or a shipped one."""
    if not isinstance(name, str):
        raise ConfigError(f"{path}: names {shown(name)} as a config; expected a file's name")
    beside = path.parent / name
    return beside if os.path.isfile(beside) else find_config(name, folders)


def merged(ground: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Values of `patch` over those of `ground`, section by section; options of another projector or encoder replace.

    An encoder's or projector's options belong to its name: where the name changes, the old options go.
    """
    out = dict(ground)
    for name in ("encoder", "projector"):
        if name in patch and patch[name] != ground.get(name):
            out.pop(f"{name}_options", None)
    for key, value in patch.items():
        below = out.get(key)
        out[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return out
