"""Two checkouts compared by whole processes: both sides run, and what each took is kept apart."""

import json
from pathlib import Path

import pytest
import yaml

from alm.common.settings import parse_settings
from benchmarks import checkouts
from benchmarks.checkouts import Cost, compare, cost, trainings
from train.settings import TrainSettings

HERE = Path(__file__).resolve().parents[1]


def test_the_cost_is_that_of_the_checkouts_own_process(tmp_path: Path) -> None:
    other = tmp_path / "alm"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text("held = bytearray(300 << 20)\nfor _ in range(10**7): pass\n")
    small, large = cost(HERE, ["config", "list"]), cost(tmp_path, [])
    assert large.peak_mb > 300 > small.peak_mb > 0
    assert large.cpu_s > 0.05
    with pytest.raises(RuntimeError, match="(?s)alm nothing.*invalid choice"):
        cost(HERE, ["nothing"])


def test_ratios_and_steps_come_from_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs are given here: this code takes half of the other's, and 0.2 s for each step against 0.4 s."""
    asked, configs = [], []

    def given(checkout: Path, words: list[str]) -> Cost:
        side = 1 if checkout == HERE else 2
        steps = 0
        if words[0] == "train":
            configs.append(json.loads(Path(words[1]).read_text()))
            steps = configs[-1]["optim"]["steps"]
        asked.append((side, words[0], steps))
        return Cost(side * (5 + 0.2 * steps), side * 100.0)

    monkeypatch.setattr(checkouts, "cost", given)
    (tmp_path / "data" / "audio").mkdir(parents=True)
    (tmp_path / "data" / "audio" / "test-0.wav").touch()
    rows = {row.what: row for row in compare(tmp_path / "other", tmp_path, 2, tmp_path / "real")}
    words = [("ask", 0)] * 2 + [("train", steps) for steps in (10, 60, 10, 60, 2, 8)]
    assert asked == [(side, *one) for sides in ((1, 2), (2, 1)) for one in words for side in sides]
    for what in ("align", "instruct", "align a real LLM"):
        row = rows[f"{what}, each step: CPU"]
        assert row.ours.startswith("0.2 s") and row.ratio.startswith("2.00x")
    assert (
        rows["ask, 1 clip: CPU"].note.startswith("ours is 0.50 of") and rows["ask, 1 clip: CPU"].aim == "0.7"
    )
    assert rows["ask, 1 clip: peak memory"].ours == "100 MB [100, 100]"
    assert len({config["out"] for config in configs}) == len(configs) == 24
    used = [(one["stage"], one.get("llm") or one["model"]) for one in configs[:12:4]]
    assert used == [
        ("align", str(tmp_path / "llm")),
        ("instruct", str(tmp_path / "align" / "model")),
        ("align", str(tmp_path / "real")),
    ]
    only = compare(tmp_path / "other", tmp_path, 1, only=["align"])
    assert {row.what.partition(",")[0] for row in only} == {"align"} and len(asked) == 36


def test_the_configs_are_those_of_this_code(tmp_path: Path) -> None:
    """A setting that is renamed would fail only after minutes of the bench."""
    for one in trainings(tmp_path, tmp_path / "real").values():
        path = Path(one.command(tmp_path / "out", 3)[1])
        assert parse_settings(TrainSettings, yaml.safe_load(path.read_text())).optim.steps == 3
