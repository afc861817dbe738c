"""Fuzz the config readers: every shipped YAML with one value changed or some bytes damaged, and random YAML."""

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from fuzzing import corrupted, damaged, fuzz, report

from alm.common.settings import load_settings, parse_settings, read_yaml
from eval.ablation.settings import load_ablation
from eval.runner.settings import EvalSettings
from train.pipeline.recipe import load_recipe
from train.quickstart.workflow import QuickstartSettings
from train.stage import parse_stage

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def _quickstart(path: Path) -> Any:
    return parse_settings(QuickstartSettings, read_yaml(path), str(path))


def _stage(path: Path) -> Any:
    return parse_stage(read_yaml(path), str(path))


READERS: dict[str, Callable[[Path], Any]] = {
    "ablation": lambda path: load_ablation(path, [], None),
    "configs": _quickstart,
    "eval": partial(load_settings, EvalSettings),
    "recipes": lambda path: load_recipe(path, []),
}


@cache
def _shipped() -> list[Path]:
    return [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.name != "quickstart-recordings.yaml"]


@cache
def _folder() -> Path:
    """A copy of the configs' tree, in which a damaged file finds what it extends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-configs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(CONFIGS, folder / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder / "configs"


def _read(source: Path, data: bytes) -> Callable[[], None]:
    file = _folder() / source.parent.relative_to(CONFIGS) / "damaged.yaml"

    def action() -> None:
        file.write_bytes(data)
        try:
            READERS.get(source.parent.name, _stage)(file)
        finally:
            file.unlink()

    return action


def value_case(rng: random.Random) -> tuple[str, Callable[[], None]]:
    """A shipped config with one value replaced, removed or added."""
    source = rng.choice(_shipped())
    what, values = corrupted(rng, yaml.safe_load(source.read_text()))
    return f"{source.name}: {what}", _read(source, yaml.safe_dump(values, sort_keys=False).encode())


def bytes_case(rng: random.Random) -> tuple[str, Callable[[], None]]:
    """A shipped config with damaged bytes, or random YAML."""
    source = rng.choice(_shipped())
    if rng.random() < 0.3:
        signs = "[]{}:,-&*!|>'\"%@`#? \n\t ab01.~é"
        return "random YAML", _read(source, "".join(rng.choices(signs, k=rng.randrange(60))).encode())
    what, data = damaged(rng, source.read_bytes())
    return f"{source.name}: {what}", _read(source, data)


def main(seconds: float) -> int:
    """Run both kinds; returns how many findings there are."""
    return report(
        fuzz("config values", value_case, seconds / 2), fuzz("config bytes", bytes_case, seconds / 2)
    )
