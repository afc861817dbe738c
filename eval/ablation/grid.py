"""Turns a config into arms: every combination of the axes' levels, on every track."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alm.common.errors import ConfigError
from eval.ablation.settings import STAGES, AblationSettings, Axes, Patch, merged
from eval.ablation.tokens import encoder_config, match_tokens, tokens_per_second

NATIVE, MATCHED = "native", "matched"


@dataclass(frozen=True)
class Arm:
    """One cell of the grid.

    Attributes:
        name: Its levels on the axes that have more than one.
        levels: Axis -> level.
        track: `native` or `matched`.
        stages: Stage -> values of its config, in the order they run; without inputs, seed and budget.
        data_size: Share of the training clips.
        tokens_per_s: LLM tokens per second of audio.
        remark: A note beside its name (its token rate is not matched).
    """

    name: str
    levels: dict[str, str]
    track: str
    stages: dict[str, dict[str, Any]]
    data_size: float
    tokens_per_s: float
    remark: str = ""

    @property
    def tuned(self) -> list[str]:
        """The stages that train a model, in order."""
        return [stage for stage in self.stages if stage != "pretrain"]

    @property
    def encoder(self) -> tuple[str | dict[str, Any], dict[str, Any]]:
        """Name, weights or parts of the encoder it begins with, before any pretraining, and its options."""
        heard = self.stages[self.tuned[0]]
        made = self.stages.get("pretrain", heard)
        source = made["encoder"] if isinstance(made["encoder"], dict) else str(made["encoder"])
        return source, {**made.get("encoder_options", {}), **heard.get("encoder_options", {})}


def make_arms(settings: AblationSettings, labels: str = "") -> list[Arm]:
    """All arms of an ablation; those of one track after those of the other.

    Args:
        settings: The ablation.
        labels: The value of `{labels}` in an arm's values: the oracle's table.

    Raises:
        ConfigError: An invalid arm, a duplicate arm name, or a baseline, floor or ceiling that names no arm.
    """
    tracks = [NATIVE] if settings.tracks.native else []
    tracks += [MATCHED] if settings.tracks.matched_per_s is not None else []
    arms = [_arm(settings, track, chosen, labels) for track in tracks for chosen in _combinations(settings)]
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"axes: two arms are named '{twice[0]}'; rename a level or a reference")
    for key in ("baseline", "floor", "ceiling"):
        wanted = getattr(settings, key)
        for track in tracks if wanted else ():
            name = named(settings, wanted, track)
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise ConfigError(
                    f"{key}: there is no arm '{name}'; did you mean '{near[0]}'? arms: {', '.join(names)}"
                )
    return arms


def named(settings: AblationSettings, arm: str, track: str) -> str:
    """An arm's name on a track."""
    both = settings.tracks.native and settings.tracks.matched_per_s is not None
    return f"{arm} @{track}" if both else arm


@dataclass(frozen=True)
class _Level:
    """One level of an axis: what it changes, and whether the axis has others."""

    axis: str
    name: str
    patch: Patch
    share: float = 1.0
    tells: bool = True


def _combinations(settings: AblationSettings) -> Iterator[list[_Level]]:
    """The levels of every arm: the grid's, then the references'."""
    columns: list[list[_Level]] = []
    for axis in dataclasses.fields(Axes):
        levels = getattr(settings.axes, axis.name)
        tells = len(levels) > 1
        if axis.name == "data_size":
            columns.append([_Level(axis.name, f"{share:g}", {}, share, tells) for share in levels])
        else:
            columns.append([_Level(axis.name, name, levels[name], tells=tells) for name in levels])
    columns = [levels for levels in columns if levels]
    yield from (list(chosen) for chosen in itertools.product(*columns))
    for name, patch in settings.references.items():
        first = [dataclasses.replace(levels[0], tells=False) for levels in columns]
        yield [*first, _Level("reference", name, patch)]


def _arm(settings: AblationSettings, track: str, chosen: list[_Level], labels: str) -> Arm:
    name = (
        "/".join([level.name for level in chosen if level.tells] or [level.name for level in chosen]) or "arm"
    )
    stages: dict[str, Any] = {stage: dict(values) for stage, values in settings.stages.items()}
    for level in chosen:
        for stage, values in level.patch.items():
            # Values for a stage that an earlier axis has removed (null) are ignored.
            if stages.get(stage, {}) is not None:
                stages[stage] = None if values is None else merged(stages.get(stage, {}), values)
    variables = {**settings.variables, **({"labels": labels} if labels else {})}
    stages = {stage: _filled(stages[stage], variables) for stage in STAGES if stages.get(stage) is not None}
    _check_chain(name, stages)
    share = next((level.share for level in chosen if level.axis == "data_size"), 1.0)
    name = named(settings, name, track)
    arm = Arm(name, {level.axis: level.name for level in chosen}, track, stages, share, 0.0)
    first, clip_s = arm.tuned[0], settings.tracks.clip_s
    projector, options = stages[first].get("projector", "mlp"), stages[first].get("projector_options", {})
    config = encoder_config(*arm.encoder)
    if track == NATIVE:
        rate = tokens_per_second(config, projector, options, clip_s)
        return dataclasses.replace(arm, tokens_per_s=rate)
    target = settings.tracks.matched_per_s
    assert target is not None
    found = match_tokens(config, projector, options, target, clip_s)
    stages[first] = {**stages[first], "projector_options": found.options}
    off = abs(found.tokens_per_s / target - 1) > settings.tracks.tolerance
    remark = f"not matched: {found.tokens_per_s:.3g} tokens/s come nearest to {target:g}" if off else ""
    return dataclasses.replace(arm, tokens_per_s=found.tokens_per_s, remark=remark)


def _check_chain(name: str, stages: dict[str, dict[str, Any]]) -> None:
    tuned = [stage for stage in stages if stage != "pretrain"]
    if not tuned:
        raise ConfigError(f"arm '{name}': both align and instruct are null; it trains no model")
    if "pretrain" in stages and stages[tuned[0]].get("encoder"):
        raise ConfigError(
            f"arm '{name}': {tuned[0]}.encoder is given, and pretrain makes another; remove one (pretrain: null)"
        )
    if "encoder" not in stages.get("pretrain", stages[tuned[0]]):
        raise ConfigError(f"arm '{name}': names no encoder; give {tuned[0]}.encoder or pretrain.encoder")


def _filled(values: Any, variables: dict[str, str | None]) -> Any:
    if isinstance(values, dict):
        return {key: _filled(value, variables) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_filled(value, variables) for value in values]
    if not isinstance(values, str):
        return values
    for name, value in variables.items():
        if f"{{{name}}}" in values:
            if value is None:
                raise ConfigError(f"variables.{name}: is not given; add variables.{name}=DIR")
            values = values.replace(f"{{{name}}}", value)
    return values
