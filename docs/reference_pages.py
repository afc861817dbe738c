"""The pages of the reference, generated from the code: config keys, commands, components, shipped configs."""

from __future__ import annotations

import argparse
import dataclasses
import html
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from alm.cli import build_parser
from alm.commands.listing import KINDS
from alm.common.plugins import Registry
from alm.common.text import markdown_table, one_line
from alm.configs.keys import REQUIRED, ConfigKey, section_keys, summary
from alm.configs.shipped import shipped_configs, summary_of
from train.config_kinds import KINDS as CONFIG_KINDS
from train.config_kinds import ablation_class, eval_class, quickstart_class

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[str, str]:
    """Every generated page: its path below `docs` and its Markdown."""
    return {
        "reference/configs.md": config_page(),
        "reference/commands.md": command_page(),
        "reference/components.md": component_page(),
        "reference/shipped.md": shipped_page(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "results-speed.md": (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"),
        "results-pretraining.md": (ROOT / "benchmarks" / "PRETRAINING.md").read_text(encoding="utf-8"),
    }


def config_classes() -> dict[str, type[Any]]:
    """Title and dataclass of everything that a config, or a section with a form of its own, is parsed with."""
    from alm.data.from_labels import Templates
    from alm.data.readers.base import DataSource
    from train.pipeline.recipe import RecipeEvaluation
    from train.quickstart.labelled import LabelledSettings
    from train.quickstart.workflow import ArmSettings
    from train.settings import TrainSettings
    from train.stage import STAGES

    own = {
        f"Stage {name}": STAGES.get(name).settings
        for name in STAGES.names()
        if not issubclass(STAGES.get(name).settings, TrainSettings)
    }
    return {
        "Training stages": TrainSettings,
        **own,
        "Evaluation of a recipe's stage": RecipeEvaluation,
        "An entry of data.train": DataSource,
        "Evaluations": eval_class(),
        "Ablations": ablation_class(),
        "Quickstart": quickstart_class(),
        "An arm of the quickstart": ArmSettings,
        "Quickstart with an encoder, an LLM and labelled recordings": LabelledSettings,
        "Wordings of alm data from-labels": Templates,
    }


def option_classes() -> dict[str, dict[str, tuple[type[Any], frozenset[str]]]]:
    """Per key that holds a component's options: the dataclass of each component, and its fields that are no option."""
    from alm.data.corpora import CORPORA
    from encoders.registry import ENCODERS
    from projectors.base import ProjectorConfig
    from projectors.registry import PROJECTORS

    def configs(registry: Registry[Any], *given: str) -> dict[str, tuple[type[Any], frozenset[str]]]:
        found = {name: registry.get(name) for name in registry.shipped()}
        return {name: (getattr(one, "config_class", one), frozenset(given)) for name, one in found.items()}

    return {
        "projector_options": configs(
            PROJECTORS, *(field.name for field in dataclasses.fields(ProjectorConfig))
        ),
        "encoder_options": configs(ENCODERS),
        "data.dataset_options": configs(CORPORA),
    }


def config_page() -> str:
    """Every key of every config."""
    from train.settings import TrainSettings

    lines = [
        "# Config keys",
        "",
        "Generated from the dataclasses that parse the configs; ranges are those that their checks enforce. On the "
        "command line a key is set as `optim.lr=1e-4`. `alm config show CONFIG` prints a config with all defaults, "
        "`alm config check FILE` checks one, `alm config schema stage` prints the JSON schema for editors.",
        "",
    ]
    for title, cls in config_classes().items():
        lines += [f"## {title}", "", summary(cls), "", *_beside(title)]
        lines += _section(cls, "", staged=cls is TrainSettings)
    for key, classes in option_classes().items():
        lines += [f"## Options in {key}", "", f"The keys of `{key}`, by the component that is chosen.", ""]
        for name, (cls, given) in classes.items():
            rows = [_row(found, False) for found in section_keys(cls) if found.name not in given]
            if (
                key == "encoder_options"
            ):  # sizes of an architecture have the names that its publisher gave them
                rows = [(*row[:-1], row[-1] or "as in the publisher's config") for row in rows]
            lines += [
                f"### {key}: {name}",
                "",
                *(_table(_HEAD, rows) if rows else ["It has none."]),
                "",
            ]
    return "\n".join(lines) + "\n"


_HEAD = ("key", "type", "default", "range", "meaning")


def _beside(title: str) -> list[str]:
    """Keys of a config that are read before its dataclass is built: a recipe's own, and `extends` of an ablation."""
    if title == "Ablations":
        known = CONFIG_KINDS["ablation"].schema()["$defs"][ablation_class().__name__]
        keys = {"extends": known["properties"]["extends"]}
    elif title == "Evaluation of a recipe's stage":
        schema = CONFIG_KINDS["recipe"].schema()
        stage = schema["properties"]["stages"]["items"]
        name = stage["allOf"][0]["then"]["properties"]["name"]
        keys = {**schema["properties"], "stages.name": name}
    else:
        return []
    rows = [(f"`{key}`", value["description"]) for key, value in keys.items()]
    return [*_table(("key beside these", "meaning"), rows), ""]


def _section(cls: type[Any], prefix: str, staged: bool) -> Iterator[str]:
    keys = section_keys(cls, prefix)
    head = (*_HEAD[:4], "stages", _HEAD[4]) if staged else _HEAD
    yield from _table(head, [_row(key, staged) for key in keys])
    yield ""
    for key in keys:
        if key.section is not None:
            yield f"### {key.name} {{ #{cls.__name__.lower()}-{key.name.replace('.', '-')} }}"
            yield ""
            yield summary(key.section)
            yield ""
            yield from _section(key.section, f"{key.name}.", staged)


def _row(key: ConfigKey, staged: bool) -> tuple[str, ...]:
    default = (
        "required"
        if key.default is REQUIRED
        else "see below"
        if key.section and key.default
        else _code(key.default)
    )
    stages: tuple[str, ...] = ()
    if staged:
        from train.stages.training import stages_of_key, training_stages

        taken = stages_of_key(key.name)
        stages = ("all" if len(taken) == len(training_stages()) else ", ".join(taken),)
    return (f"`{key.name}`", key.type, default, key.allowed, *stages, key.text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown_table(head, rows, _cell)


def _cell(text: str) -> str:
    """Our own text, whose code between backticks stays as it is."""
    return _escaped(one_line(text)).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text with code between backticks: `<` is escaped outside of code, where Markdown does not do it."""
    parts = (part if n % 2 else html.escape(part, quote=False) for n, part in enumerate(text.split("`")))
    return "`".join(parts)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def command_page() -> str:
    """Every command and every option."""
    lines = [
        "# Commands",
        "",
        "Generated from the command line itself; each command has its own `--help`.",
        "",
    ]
    parser = build_parser()
    parser.formatter_class = _formatter
    lines += [*_options(parser), ""]
    for name, sub in _subparsers(parser):
        lines += _command(f"alm {name}", sub, 2)
    return "\n".join(lines) + "\n"


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=100)


def _command(title: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    parser.formatter_class = _formatter
    yield f"{'#' * level} {title}"
    yield ""
    yield _escaped(parser.description or "")
    yield ""
    yield from ("```text", parser.format_usage().removeprefix("usage: ").rstrip(), "```", "")
    yield from _options(parser)
    yield ""
    for name, sub in _subparsers(parser):
        yield from _command(f"{title} {name}", sub, level + 1)


def _subparsers(parser: argparse.ArgumentParser) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _options(parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or "--help" in action.option_strings:
            continue
        metavar = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        shown = ", ".join(f"`{flag}{f' {metavar}' if metavar else ''}`" for flag in action.option_strings)
        text = (action.help or "").replace("%%", "%")
        rows.append((shown or f"`{metavar}`", text))
    return _table(("option", "meaning"), rows) if rows else []


def component_page() -> str:
    """Every component of every kind."""
    lines = [
        "# Components",
        "",
        "Generated from the registries. A component is one file that assigns one name; [Add a component]"
        "(../howto/components.md) says how to add yours.",
        "",
    ]
    for kind, where in KINDS.items():
        module, _, name = where.partition(":")
        registry = getattr(import_module(module), name)
        rows = [(f"`{one}`", _first_line(registry, one)) for one in registry.shipped()]
        lines += [f"## {kind}", "", f"`alm list {kind}`; folder `{registry.package.replace('.', '/')}/`, assigns "
                  f"`{registry.attribute}`.", "", *_table(("name", "what"), rows), ""]  # fmt: skip
        if kind in ("benchmarks", "corpora"):
            lines += _layouts(registry)
    return "\n".join(lines) + "\n"


def _first_line(registry: Any, name: str) -> str:
    registry.get(name)
    module = import_module(f"{registry.package}.{name}")
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _layouts(registry: Any) -> Iterator[str]:
    """What components say below their first line: how the data that they read is laid out."""
    for one in registry.shipped():
        registry.get(one)
        _, _, more = inspect.cleandoc(import_module(f"{registry.package}.{one}").__doc__ or "").partition(
            "\n\n"
        )
        if more:
            lines = (line if line.startswith("    ") else _escaped(line) for line in more.splitlines())
            yield from (f"### {one} {{ #{registry.kind}-{one} }}", "", *lines, "")


def encoder_table() -> str:
    """What every encoder is at its default size: width, rate, window, how a clip's features are pooled, licence."""
    from encoders.registry import ENCODERS, encoder_class

    names = [
        name for name in ENCODERS.shipped() if encoder_class(name).licence != "-"
    ]  # "-": controls, and those
    # that put others together
    return "\n".join(
        _table(
            ("encoder", "width", "tokens/s", "Hz", "window, s", "clip features", "licence of the weights"),
            [(f"`{name}`", *_encoder_row(encoder_class(name))) for name in names],
        )
    )


def _encoder_row(found: Any) -> tuple[str, ...]:
    config = found.config_class()
    window = getattr(config, "window_samples", None)
    return (
        str(config.dim),
        f"{config.frame_rate_hz * config.n_freq:.4g}",
        str(config.sample_rate),
        "whole clip" if window is None else f"{window / config.sample_rate:.4g}",
        {"avg": "mean", "cls": "CLS"}.get(getattr(config, "pooling", "mean"), "mean"),
        found.licence,
    )


def shipped_page() -> str:
    """Every shipped config."""
    rows = [(f"`{name}`", summary_of(path)) for name, path in shipped_configs().items()]
    head = "# Shipped configs\n\n`alm config list`; the name works wherever the package is installed. "
    head += "`alm config show NAME --raw` prints the file, to copy it.\n\n"
    return head + "\n".join(_table(("name", "what"), rows)) + "\n"
