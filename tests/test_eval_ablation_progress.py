"""How far an ablation is: the state of steps from their folders, the time that is left, and how both are shown."""

import fcntl
import json
import os
import re
import sys
import time

import pytest

from alm.cli import main
from alm.common.errors import UserError
from eval.ablation import progress
from eval.ablation.progress import (
    Observed,
    Planned,
    Watch,
    ablation_status,
    duration,
    observe,
    read_steps,
    seconds_left,
    summary,
    write_steps,
)
from eval.ablation.runner import run_steps
from eval.ablation.steps import Step

ENCODING, FURTHER = 100.0, 20.0


def planned(name, group="align g", needs=(), **more):
    return Planned(name, f"arm, {name}", group, tuple(needs), **more)


def train(number, **more):
    return planned(f"align-{number}", seconds=10.0, n_steps=160, **more)


class Folders:
    """Steps' folders in the states that processes leave them in."""

    def __init__(self, work):
        self.work, self.locks = work, []

    def of(self, step):
        folder = self.work / "steps" / step.folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done(self, step, seconds):
        (self.of(step) / "finished.json").write_text(json.dumps({"seconds": seconds}))

    def runs(self, step, log="", metrics="", since_s=0.0):
        folder = self.of(step)
        (folder / "run").mkdir()
        (folder / "log.txt").write_text(log)
        (folder / "run" / "metrics.jsonl").write_text(metrics)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.utime(folder / "lock", (time.time() - since_s,) * 2)
        self.locks.append(handle)


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path)
    yield made
    for handle in made.locks:
        os.close(handle)


def test_states_come_from_the_folders_and_nothing_is_changed(tmp_path, folders):
    """Also of steps that another process or host runs: the lock says so."""
    first, broken, metrics, bar, encodes = (train(number) for number in range(5))
    after = train(5, needs=[broken.folder])
    answers = planned("score-1", "score")
    folders.done(first, 30.0)
    (folders.of(broken) / "failed.json").write_text("{}")
    folders.runs(
        metrics, metrics='{"step": 20, "loss": 1}\n{"step": 60, "loss": 1}\n{"step": 80, "lo', since_s=40
    )
    folders.runs(bar, log="\rencode clips: 100%|###| 9/9 [0\ralign:   5%|#  | 8/160 [00:01<00:20, 7step/s]")
    folders.runs(encodes, log="\rencode clips:  44%|###| 4/9 [00:01<00:02]")
    folders.runs(answers, log="\rmanifest:  57%|##7| 426/750 [02:31<01:58,  2.74answer/s]")
    steps = [first, broken, metrics, bar, encodes, after, answers]
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    found = {one.step.folder: one for one in observe(tmp_path, steps)}
    assert [one.state for one in found.values()] == [
        "done", "failed", "running", "running", "running", "skipped", "running",
    ]  # fmt: skip
    assert found[first.folder].seconds == 30.0 and 39 < found[metrics.folder].seconds < 60
    assert found[metrics.folder].part == "80/160" and found[bar.folder].part == "8/160"
    assert (found[encodes.folder].part, found[encodes.folder].share) == ("encode clips 4/9", 0.0)
    assert found[answers.folder].part == "426/750" and found[answers.folder].share == pytest.approx(0.568)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before
    again = {one.step.folder: one.state for one in observe(tmp_path, steps, since=time.time() + 9)}
    assert again[broken.folder] == again[after.folder] == "waiting"  # an ablation tries it again


def test_the_time_left_follows_measured_steps_then_scaled_estimates():
    """Two at a time; the first step of a group also encodes the clips, and estimates are off by a factor of two."""
    done = [Observed(train(number, once=ENCODING), "done", FURTHER) for number in (1, 2)]
    done[0] = Observed(train(0, once=ENCODING), "done", ENCODING + FURTHER)
    same = [Observed(train(number, once=ENCODING), "waiting") for number in range(3, 7)]
    assert seconds_left([*done, *same], 2) == (2 * FURTHER, 0)
    assert seconds_left([done[0], *same], 4) == (FURTHER, 0)
    other = [Observed(planned(f"align-x{n}", "align x", seconds=50.0), "waiting") for n in range(2)]
    assert seconds_left([*done, *other], 1) == (2 * 50.0 * FURTHER / 10.0, 0)
    assert seconds_left([*same], 1) == (
        4 * 10.0 + ENCODING,
        0,
    )  # nothing measured: the estimate, encoding once


def test_running_steps_correct_estimates_before_any_has_finished():
    steps = [Observed(train(0), "running", seconds=20.0, share=0.5), Observed(train(1), "waiting")]
    assert seconds_left(steps, 1) == (20.0 + 40.0, 0)


def test_steps_wait_for_those_that_they_need_and_other_hosts_help():
    chain = [Observed(train(0), "waiting"), Observed(train(1, needs=["align-0"]), "waiting")]
    assert seconds_left(chain, 8)[0] == 20.0
    running = [Observed(train(number), "running", 4.0) for number in range(2, 5)]
    assert seconds_left(running, 1)[0] == pytest.approx(6.0)  # three at once, on several hosts
    half = Observed(train(5), "running", seconds=30.0, share=0.5)  # slower than expected
    done = Observed(train(6), "done", 10.0)
    assert seconds_left([done, half], 1)[0] == pytest.approx((10 + 60) / 2 - 30)


def test_what_has_no_estimate_is_said_until_one_of_its_kind_is_under_way():
    scores = [Observed(planned(f"score-{number}", "score"), "waiting") for number in range(3)]
    line = summary([Observed(train(0), "done", 10.0), Observed(train(1), "waiting"), *scores], 1)
    assert line == "1 of 5 steps done, 0 running, 4 waiting; about 10 s left plus 3 steps of unknown length"
    scores[0] = Observed(scores[0].step, "running", seconds=20.0, share=0.25)
    assert seconds_left(scores, 1) == (60.0 + 2 * 80.0, 0)
    assert summary([Observed(train(0), "done", 10.0)], 1) == "1 of 1 steps done, 0 running, 0 waiting"
    assert [duration(seconds) for seconds in (4.6, 700, 12000)] == ["5 s", "12 min", "3 h 20 min"]


def test_another_terminal_shows_the_same(tmp_path, folders, capsys):
    steps = [train(0), train(1), train(2)]
    out = tmp_path / "out"
    out.mkdir()
    assert (
        main(["ablate", "--status", str(out)]) == 2
        and "no ablation has begun there" in capsys.readouterr().err
    )
    write_steps(out, tmp_path, 1, steps)
    folders.done(steps[0], 30.0)
    assert main(["ablate", "--status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 of 3 steps done, 0 running, 2 waiting; about 60 s left" in said and "no step is running" in said
    folders.runs(steps[1], metrics='{"step": 40}\n', since_s=7)
    assert main(["ablate", "--status", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^align +1 +1 +1 +0 +0$", said, re.M)
    assert re.search(r"^arm, align-1 +40/160 +[78] s$", said, re.M)
    write_steps(out, tmp_path, 1, steps[:1])  # a host that begins later has listed fewer steps so far
    assert "1 of 3 steps" in ablation_status(out)
    assert main(["ablate", "tiny", "--status", str(out)]) == 2 and main(["ablate"]) == 2
    (out / "progress.json").write_text('{"work": ".", "jobs": 1, "steps": [{"folder": "../x"}]}')
    assert main(["ablate", "--status", str(out)]) == 2
    assert "not as `alm ablate` writes it" in capsys.readouterr().err


class Screen:
    """Standard error that is a terminal, or is none."""

    def __init__(self, is_terminal):
        self.text, self.isatty, self.flush = "", lambda: is_terminal, lambda: None

    def write(self, text):
        self.text += text


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "log"])
def test_a_live_line_on_a_terminal_and_plain_lines_in_a_log(tmp_path, monkeypatch, capsys, is_terminal):
    """While real processes run; the line is removed before others are printed."""
    (tmp_path / "ablation_sleep.py").write_text("import sys, time, pathlib; time.sleep(0.5)\n"
                                                "pathlib.Path(sys.argv[1], 'out.txt').touch()")  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "_WATCHED_S", 0.1)
    monkeypatch.setattr(progress, "_LOGGED_S", 0.1)
    watch = Watch(tmp_path, tmp_path, 1)
    steps = [Step("nap", f"nap {n}", ("ablation_sleep", "{here}", str(n)), "out.txt") for n in range(2)]
    run_steps(tmp_path, steps, 1, watch.say, watch=watch)
    watch.clear()
    lines = [line.strip() for line in screen.text.replace("\r", "\n").splitlines() if line.strip()]
    assert any(
        line.endswith("0 of 2 steps done, 1 running, 1 waiting; 2 steps of unknown length | nap 0")
        for line in lines
    )
    assert any("1 of 2 steps done, 1 running, 0 waiting; about 0 s left | nap 1" in line or "1 s left | nap 1" in line
               for line in lines)  # fmt: skip
    assert ("\r" in screen.text) == is_terminal and "\x1b" not in screen.text
    assert not is_terminal or screen.text.endswith(" \r")
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "change",
    [{"folder": 3}, {"seconds": "x"}, {"group": []}, {"needs": [[1]]}, {"n_steps": "7"}, {"label": None}],
)
def test_a_damaged_list_is_one_line_and_replaced(tmp_path, change):
    step = Planned("align-1", "a: align", "g", seconds=2.0)
    write_steps(tmp_path, tmp_path / "work", 1, [step])
    file = tmp_path / "progress.json"
    values = json.loads(file.read_text())
    values["steps"][0] |= change
    file.write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"progress\.json: not as `alm ablate` writes it .* run the ablation again"
    ):
        ablation_status(tmp_path)
    write_steps(tmp_path, tmp_path / "work", 1, [step])
    assert read_steps(tmp_path)[2] == [step]
    marker = tmp_path / "work" / "steps" / "align-1" / "finished.json"
    marker.parent.mkdir(parents=True)
    marker.write_text("{}")
    assert "0 of 1 steps done" in ablation_status(tmp_path)
