"""Configs: what strangers and slips put into YAML is one clear line, never a hang or a traceback."""

import os
import random
from dataclasses import dataclass, field
from typing import Any

import fuzz_configs
import fuzzing
import pytest
import yaml

from alm.common.errors import ConfigError
from alm.common.settings import dump_settings, load_settings, parse_settings, read_yaml
from eval.ablation.settings import load_ablation


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    seeds: tuple[int, ...] = (0,)
    inner: Inner = field(default_factory=Inner)
    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)

BAD = {
    "name: [": "not valid YAML",
    "- a": "mapping",
    "": "mapping",
    "options:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()): "more than 100000 values",
    "options: &a {b: *a}": "more than 40 levels",
    "options: " + "[" * 100 + "]" * 100: "more than 40 levels",
    "options: " + "[" * 20000 + "]" * 20000: "more than 40 levels",
    "name: a\nname: b": "'name' given twice",
    "inner: {lr: .nan}": "'inner.lr' is nan; expected a finite number",
    "options: {a: [1, -.inf]}": "'options.a[1]' is -inf",
    "inner: {seed: -1}": "'inner.seed' is -1; expected a seed of 0",
    "seeds: [0, 4294967296]": "'seeds[1]' is 4294967296; expected a seed",
    f"inner: {{lr: 1{'0' * 400}}}": "more than 64 bits",
    f"inner: {{lr: 1{'0' * 5000}}}": "not valid YAML",
    "options: {when: 2024-02-30}": "not valid YAML",
    "options: {when: 2024-02-28}": "is a YAML date; put quotes around it",
    "options: {a: !!binary aGk=}": "is a YAML bytes",
    "options: {a: !!python/object/apply:os.system [true]}": "not valid YAML",
    'name: "a\\0b"': "'name' is 'a\\x00b', which holds NUL",
    'options: {"\\ud800": 1}': "half a surrogate pair",
    "name: 3\ninner: {lrr: 1}": "did you mean 'inner.lr'",
    "model: {a: 1}": "model: got {'a': 1}, expected str or null",
    "x" * 600_000: "at most 500000",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30].replace("\n", " "))
def test_a_bad_config_is_one_line_that_names_file_and_key(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(Outer, path)
    assert str(path) in str(caught.value) and BAD[text] in str(caught.value), caught.value
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "override", ["inner.lr=.nan", "inner.seed=-1", "name=[", "name.x=1", "seeds=[-1]", "=1", "name"]
)
def test_a_bad_override_is_one_line(override):
    with pytest.raises(ConfigError, match=override.split("=")[0].split(".")[-1].replace("[", r"\[")):
        load_settings(Outer, None, [override])


def test_values_given_by_code_are_checked_alike_and_good_ones_stay():
    for values in ({"inner": {"lr": float("nan")}}, {"inner": {"seed": -1}}, {"name": "\0"}):
        with pytest.raises(ConfigError):
            parse_settings(Outer, values)
    shared = {"a": 1}
    settings = parse_settings(
        Outer, {"seeds": [0, 4294967295], "options": {"x": shared, "y": shared, "control_seeds": -1}}
    )
    assert settings.seeds == (0, 4294967295) and settings.options["y"] == {"a": 1}
    assert "4294967295" in dump_settings(settings)


def test_files_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for name, words in (
        ("fifo.yaml", "a pipe"), ("loop.yaml", "cannot be read"), (".", "a directory"), ("latin.yaml", "not UTF-8"),
        ("none.yaml", "no such config file"), ("nul\0.yaml", "no such config file"), ("x" * 300, "no such config file"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            read_yaml(tmp_path / name)
    with pytest.raises(ConfigError, match="a device"):
        read_yaml("/dev/zero")


def test_a_config_that_extends_itself(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself, by way of a.yaml -> b.yaml -> a.yaml"):
        load_ablation(tmp_path / "a.yaml", [], None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300, "x: no such config file"),
        (["x"] * 300, "expected a file's name"),
        (5, "names 5 as a config"),
    ],
)
@pytest.mark.parametrize("key", ["extends", "stages"])
def test_a_config_that_names_no_config(tmp_path, key, name, said):
    values = {"extends": name} if key == "extends" else {"stages": {"align": {"config": name}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=said):
        load_ablation(tmp_path / "a.yaml", [], None)


def test_fuzz():
    assert not fuzzing.fuzz("config values", fuzz_configs.value_case, n=60, seed=0).findings
    assert not fuzzing.fuzz("config bytes", fuzz_configs.bytes_case, n=40, seed=0).findings
    what, _ = fuzz_configs.value_case(random.Random(1))
    assert ".yaml" in what
