"""The README keeps its word: every `alm` command in it parses, its keys are known, nothing is left to fill in."""

import shlex
from pathlib import Path

import pytest

from alm.cli import build_parser, main
from alm.common.settings import load_settings, read_yaml
from eval.benchmarks import list_benchmarks
from train.pipeline.recipe import load_recipe
from train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = README.replace("\\\n", " ").splitlines()  # a command may go on in the next line
COMMANDS = [line.split("#")[0].strip() for line in LINES if line.startswith("alm ")]


def subparsers(parser):
    """Every parser below one, actions of subcommands included."""
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for sub in action.choices.values():
            yield sub
            yield from subparsers(sub)


def test_nothing_is_left_to_fill_in():
    assert "PLACEHOLDER" not in README and len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, monkeypatch):
    ran = []
    parser = build_parser()
    monkeypatch.setattr("alm.cli.build_parser", lambda: parser)
    for sub in subparsers(parser):
        sub.set_defaults(run=ran.append)
    assert main(shlex.split(command)[1:]) == 0
    (arguments,) = ran
    config, benchmark = getattr(arguments, "config", None), getattr(arguments, "benchmark", None)
    assert config is None or (ROOT / config).is_file()
    assert benchmark in (None, "list", *list_benchmarks()) or (ROOT / benchmark).is_file()
    if command.startswith("alm train"):
        if "stages" in read_yaml(ROOT / config):
            load_recipe(ROOT / config, arguments.overrides)
        else:
            load_settings(TrainSettings, ROOT / config, arguments.overrides)


def test_overrides_may_stand_on_both_sides_of_an_option():
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alm.commands.quickstart._quickstart", seen.append)
        assert main(["quickstart", "a.b=1", "--seed", "3", "c=2"]) == 0
    assert seen[0].overrides == ["a.b=1", "c=2"] and seen[0].seed == 3
    with pytest.raises(SystemExit):
        main(["quickstart", "--nonsense"])
    with pytest.raises(SystemExit):
        main(["ask", "m", "a.wav", "q", "--batch-size", "0"])
