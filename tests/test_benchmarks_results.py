"""`make results` writes figures beside what they were measured with, and keeps those that it does not measure."""

import json
import re
from datetime import date

import pytest

from alm.common.errors import UserError
from benchmarks import results
from benchmarks.results import FIGURES, Figure, main, measure


def test_a_figure_stands_beside_its_command_and_others_stay(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setitem(
        FIGURES, "shards", Figure("Clips in shards", "python benchmarks/shards.py --clips 20")
    )
    page.write_text("# Old head\n\n## Ranking of choices\n\n- kept\n\n## Clips in shards\n\n- old\n")
    main(["--only", "shards", "--out", str(page), "--work", str(tmp_path / "work")])
    text = page.read_text()
    assert "- old" not in text and "Old head" not in text
    kept, made = re.split(r"^## ", text, flags=re.M)[1:]
    assert kept.startswith("Ranking of choices\n\n- kept")
    assert "- `python benchmarks/shards.py --clips 20`, " in made and "wrote 20 records" in made
    assert "seek_s" in made
    assert re.search(r"- Commit ([0-9a-f]{7}( with changes)?|unknown)", made)
    assert f"Date: {date.today().isoformat()}" in made and "- CPU: " in made


def test_a_failed_command_writes_nothing(tmp_path):
    with pytest.raises(UserError, match=r"exit code 2: .*--nonsense"):
        measure(Figure("x", "python benchmarks/shards.py --nonsense"), tmp_path)
    with pytest.raises(UserError, match=r"exit code 1: ZeroDivisionError"):
        measure(Figure("x", "python -c 1/0"), tmp_path)
    missed = measure(Figure("x", "python -c print('MISSED');exit(1)"), tmp_path)  # a bound, which is a result
    assert "MISSED\n" in missed


def test_log_lines_of_libraries_are_no_figures(tmp_path):
    log = "[2026-11-30 21:11:17,067] [WARNING] [real_accelerator.py:213:get_accelerator] Setting to CPU.\n"
    assert (
        results._as_printed(f"{log}8 questions\n[0.1, 0.2]\n", tmp_path)
        == "```text\n8 questions\n[0.1, 0.2]\n```"
    )


def test_the_quickstarts_scores_become_a_table(tmp_path):
    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    arm = {"scores": {"qa/overall": score, "caption/cider_d": score}}
    folder = tmp_path / "quickstart"
    folder.mkdir()
    (folder / "scores.json").write_text(
        json.dumps({"arms": {"none": arm, "other_clip": arm, "qformer": arm}})
    )
    table = results._quickstart("", tmp_path).splitlines()
    assert table[0] == "|  | model (MLP) | other clip | qformer |"
    assert (
        table[2]
        == "| questions answered right, % | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] |"
    )
    assert "0.50 [0.25, 0.75]" in table[3]
