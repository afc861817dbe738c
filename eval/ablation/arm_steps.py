"""The steps that train, score, cost and probe one arm, for a seed and a learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from alm.common.errors import ConfigError
from alm.common.settings import dotted
from eval.ablation.grid import Arm
from eval.ablation.settings import AblationSettings, merged
from eval.ablation.steps import CONFIG, HERE, ROOT, Step
from eval.scoring.predictions import HEADLINE

RUN = "run"
LABELS = "labels.json"
PROBE = "probe.json"
SCORES = "scores.json"
_FEATURES = f"{ROOT}/features"
# Settings of a small copy of the inputs: same sounds and model size, so that an optimiser step costs the same.
_SKETCH = {
    "compose": {"n_train": 48, "n_validation": 8, "n_test": 8},
    "text_llm": {"steps": 1, "n_test_scenes": 1},
}


@dataclass(frozen=True)
class Inputs:
    """Where the shared inputs are, and the steps that make them.

    Attributes:
        train: Manifests.
        validation: Manifests.
        test: The benchmark's data.
        llm: The LLM.
        labels: Source of labels, or "".
        table: The oracle's table, or "".
        needs: Steps that make them.
        reads: Files of the user that they depend on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: str
    llm: str
    labels: str
    table: str
    needs: tuple[Step, ...]
    reads: tuple[str, ...]


def shared_inputs(settings: AblationSettings, sketch: bool = False) -> Inputs:
    """The inputs that all arms share.

    A sketch is a small copy of them, large enough to measure the cost of an optimiser step.
    """
    given = settings.inputs
    if given.scenes is not None:
        scenes = merged(given.scenes, _SKETCH) if sketch else given.scenes
        data = ("--data", given.recordings) if given.recordings else ()
        words = ("alm", "quickstart", "--inputs-only", "--out", HERE, *data, "--seed", str(given.seed))
        reads = (given.recordings,) if given.recordings else ()
        # The quickstart writes into a subfolder, because the step's own folder holds its log and markers.
        step = Step(
            "inputs", "scenes and small LLM", (*words, *_words(scenes)), "llm/config.json", reads=reads
        )
        parts = tuple(f"{step.ref}/data/{split}.jsonl" for split in ("train", "validation", "test"))
        found = Inputs((parts[0],), (parts[1],), parts[2], f"{step.ref}/llm",
                       f"{step.ref}/data/scenes.jsonl", "", (step,), ())  # fmt: skip
    elif given.recordings:
        assert given.llm is not None
        words = ("alm", "quickstart", "--inputs-only", "--out", HERE, "--data", given.recordings, "--held-out",
                 given.held_out or "", *([f"question={given.question}"] if given.question else ()))  # fmt: skip
        step = Step(
            "inputs", "questions about recordings", words, "data/test.jsonl", reads=(given.recordings,)
        )
        parts = tuple(f"{step.ref}/data/{split}.jsonl" for split in ("train", "validation", "test"))
        found = Inputs((parts[0],), (parts[1],), parts[2], given.llm, given.labels or given.recordings, "", (step,),
                       (given.recordings, given.llm))  # fmt: skip
    else:
        assert given.test is not None and given.llm is not None
        files = (*given.train, *given.validation, given.test, given.llm, *filter(None, [given.labels]))
        found = Inputs(
            given.train, given.validation, given.test, given.llm, given.labels or "", "", (), files
        )
    if not found.labels:
        return found
    words = ("alm", "encoders", "labels", found.labels, "--out", f"{HERE}/{LABELS}")
    table = Step("labels", "label table of the oracle", words, LABELS, needs=found.needs, reads=found.reads)
    return replace(found, table=f"{table.ref}/{LABELS}", needs=(*found.needs, table))


def with_share(inputs: Inputs, share: float) -> Inputs:
    """The inputs with a share of the training clips."""
    if share == 1.0:
        return inputs
    steps, files = [], []
    for manifest in inputs.train:
        words = ("alm", "data", "share", manifest, "--share", str(share), "--out", f"{HERE}/train.jsonl")
        step = Step("share", f"{share:.0%} of the training clips", words, "train.jsonl",
                    needs=inputs.needs, reads=inputs.reads)  # fmt: skip
        steps.append(step)
        files.append(f"{step.ref}/train.jsonl")
    return replace(inputs, train=tuple(files), needs=(*inputs.needs, *steps))


@dataclass(frozen=True)
class ArmSteps:
    """The steps of one run of an arm.

    Attributes:
        train: The training stages, in order.
        score: The evaluation.
    """

    train: tuple[Step, ...]
    score: Step

    @property
    def tuned(self) -> list[Step]:
        """The stages that train a model."""
        return [step for step in self.train if step.name != "pretrain"]


def arm_steps(
    settings: AblationSettings,
    arm: Arm,
    inputs: Inputs,
    seed: int,
    lr_scale: float = 1.0,
    steps: Mapping[str, int] | None = None,
) -> ArmSteps:
    """The steps that train and score an arm once.

    Args:
        settings: The ablation.
        arm: The arm; its values may hold references to the inputs' steps.
        inputs: All inputs.
        seed: Seed of the tuned stages.
        lr_scale: Factor on their learning rates.
        steps: Stage -> optimiser steps, if the budget sets them.
    """
    inputs = with_share(inputs, arm.data_size)
    who = f"{arm.name}, seed {seed}" + (f", lr x {lr_scale:g}" if lr_scale != 1.0 else "")
    made: list[Step] = []
    before: tuple[str, str] | None = None
    for stage, given in arm.stages.items():
        values = stage_values(stage, given, inputs, before)
        if stage != "pretrain" or settings.pretrain_per_seed:
            values = merged(values, {"run": {"seed": seed}})
        if stage != "pretrain" and lr_scale != 1.0:
            values = merged(values, {"optim": {"lr": _learning_rate(arm, stage, given) * lr_scale}})
        if steps and stage in steps:
            values = merged(values, {"optim": {"steps": steps[stage]}})
        values["out"] = f"{HERE}/{RUN}"
        artifact = "encoder" if stage == "pretrain" else "model"
        needs = (*inputs.needs, *made[-1:])
        step = Step(stage, f"{who}: {stage}", ("alm", "train", f"{HERE}/{CONFIG}"),
                    f"{RUN}/{artifact}", values, needs, _reads(values, inputs))  # fmt: skip
        made.append(step)
        before = artifact, f"{step.ref}/{RUN}/{artifact}"
    assert before is not None, "an arm has at least one stage"
    return ArmSteps(tuple(made), _score(settings, who, inputs, made[-1], before[1], seed))


def _score(settings: AblationSettings, who: str, inputs: Inputs, last: Step, model: str, seed: int) -> Step:
    scoring = settings.scoring
    chosen = scoring.controls if seed in settings.seeds[: scoring.control_seeds] else ()
    controls = f"controls=[{','.join((HEADLINE, *chosen))}]"
    words = (
        "alm",
        "eval",
        scoring.benchmark,
        "--model",
        model,
        "--data",
        inputs.test,
        "--out",
        f"{HERE}/{RUN}",
    )
    return Step("score", f"{who}: score", (*words, controls, *_words(scoring.options)),
                f"{RUN}/{SCORES}", needs=(*inputs.needs, last), reads=inputs.reads)  # fmt: skip


def stage_values(
    stage: str, given: dict[str, Any], inputs: Inputs, before: tuple[str, str] | None
) -> dict[str, Any]:
    """The config of a stage: the arm's values, and its inputs.

    Args:
        stage: pretrain, align or instruct.
        given: The arm's values.
        inputs: The shared inputs.
        before: Artifact of the stage before and where it is (`encoder` or `model`, path); None starts from scratch.
    """
    data: dict[str, Any] = {"train": list(inputs.train), "validation": list(inputs.validation)}
    values = {key: value for key, value in given.items() if key not in ("out", "model")} | {"stage": stage}
    if stage != "pretrain":
        if given.get("data", {}).get("cache_features"):
            data["feature_folder"] = _FEATURES
        if before is not None and before[0] == "model":
            values["model"] = before[1]
            for key in ("encoder", "encoder_options", "projector", "projector_options"):
                values.pop(key, None)
        elif before is not None:
            values |= {"encoder": before[1], "llm": given.get("llm", inputs.llm)}
        else:
            values.setdefault("llm", inputs.llm)
    return merged(values, {"data": data})


def plan_steps(arm: Arm, inputs: Inputs) -> dict[str, Step]:
    """For each stage of an arm, the step that measures its cost, on a sketch of the inputs."""
    made = {}
    source, options = arm.encoder
    first = arm.stages[arm.tuned[0]]
    for stage, given in arm.stages.items():
        values = stage_values(stage, given, inputs, None)
        # Start from scratch: the artifact of the stage before would have the same size.
        if stage != "pretrain":
            ends = {"encoder": source, "encoder_options": options}
            ends |= {key: first[key] for key in ("projector", "projector_options") if key in first}
            values |= ends
        values["out"] = f"{HERE}/{RUN}"
        words = ("alm", "train", f"{HERE}/{CONFIG}", "--dry-run", "--json")
        made[stage] = Step("plan", f"{arm.name}: cost of {stage}", words, CONFIG, values,
                           inputs.needs, _reads(values, inputs))  # fmt: skip
    return made


def probe_step(settings: AblationSettings, arm: Arm, inputs: Inputs, run: ArmSteps) -> Step | None:
    """The linear probe of the encoder that an arm starts with; None without labels."""
    if not settings.proxies.probe or not inputs.labels:
        return None
    pretrained = [step for step in run.train if step.name == "pretrain"]
    source, options = arm.encoder
    if pretrained:
        source = f"{pretrained[0].ref}/{RUN}/encoder"
        options = arm.stages[arm.tuned[0]].get("encoder_options", {})
    values = {
        "encoder": source,
        "encoder_options": options,
        "labels": inputs.labels,
        "train": list(inputs.train),
        "test": list(inputs.validation),
        "most_clips": settings.proxies.probe_clips,
    }
    words = ("eval.ablation.probe", f"{HERE}/{CONFIG}", f"{HERE}/{PROBE}")
    return Step("probe", f"{arm.name}: linear probe", words, PROBE, values,
                (*inputs.needs, *pretrained), _reads(values, inputs))  # fmt: skip


def _learning_rate(arm: Arm, stage: str, values: dict[str, Any]) -> float:
    try:
        return float(values["optim"]["lr"])
    except KeyError as error:
        raise ConfigError(f"arm '{arm.name}': lr_scales needs {stage}.optim.lr; give it") from error


def _reads(values: dict[str, Any], inputs: Inputs) -> tuple[str, ...]:
    """The user's files that a stage starts from, beside the shared inputs."""
    named = [values.get(key) for key in ("encoder", "llm", "model")]
    return (*inputs.reads, *(one for one in named if isinstance(one, str) and not one.startswith("{step ")))


def _words(values: dict[str, Any]) -> list[str]:
    """Nested values as `key.sub=value` words."""
    texts = {
        key: yaml.safe_dump([value], default_flow_style=True, width=10**6) for key, value in dotted(values)
    }
    return [f"{key}={text.strip()[1:-1]}" for key, text in texts.items()]
