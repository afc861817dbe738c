"""Two checkouts compared by whole processes: both sides run, and what each took is kept apart."""

from pathlib import Path

import pytest

from benchmarks import checkouts
from benchmarks.checkouts import Cost, compare, cost

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
    asked = []

    def given(checkout: Path, words: list[str]) -> Cost:
        side = 1 if checkout == HERE else 2
        asked.append((side, words[0]))
        steps = 0 if words[0] == "ask" else 10 if "-10." in words[1] else 60
        return Cost(side * (5 + 0.2 * steps), side * 100.0)

    monkeypatch.setattr(checkouts, "cost", given)
    (tmp_path / "data" / "audio").mkdir(parents=True)
    (tmp_path / "data" / "audio" / "test-0.wav").touch()
    rows = {row.what: row for row in compare(tmp_path / "other", tmp_path, 2)}
    assert [side for side, _ in asked] == [1, 2] * 4 + [2, 1] * 4
    assert rows["train, each step: CPU"].ours.startswith("0.2 s") and rows[
        "train, each step: CPU"
    ].ratio.startswith("2.00x")
    assert (
        rows["ask, 1 clip: CPU"].note.startswith("ours is 0.50 of") and rows["ask, 1 clip: CPU"].aim == "0.7"
    )
    assert rows["ask, 1 clip: peak memory"].ours == "100 MB [100, 100]"
