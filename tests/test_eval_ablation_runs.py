"""Steps as real processes: killed and started again, failing, side by side; and a whole small ablation."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from alm.cli import main
from alm.common.processes import child_environment
from alm.data.manifest import write_manifest
from encoders.audio import save_wav
from eval.ablation.results import failure
from eval.ablation.runner import _lock, is_done, last_error, run_steps, step_folder
from eval.ablation.steps import Step
from eval.ablation.warm_start import Starter

ROOT = Path(__file__).resolve().parents[1]
WORK = """
import pathlib, sys, time
name, here, log, seconds = sys.argv[1:]
with open(log, "a") as file:
    file.write(name + "\\n")
if name == "broken":
    print("Traceback (most recent call last):")
    sys.exit("ValueError: it does not work")
time.sleep(float(seconds))
pathlib.Path(here, "out.txt").write_text(name)
"""
DRIVER = """
import sys
from pathlib import Path
from test_eval_ablation_runs import steps_for
from eval.ablation.runner import run_steps
from alm.common.processes import child_environment
from eval.ablation.warm_start import Starter
with Starter((), child_environment()) as warm:
    steps = steps_for(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    run_steps(Path(sys.argv[1]), steps, 2, starter=warm if sys.argv[5] == "True" else None)
"""


@pytest.fixture(params=[False, True], ids=["cold", "warm"])
def warm(request):
    """Whether the steps' processes are forks."""
    return request.param


@pytest.fixture
def run(work, warm):
    """`run_steps` with either kind of process."""
    with Starter((), child_environment()) as starter:
        yield partial(run_steps, starter=starter if warm else None)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that can be run as a step, and the file in which every start leaves a line."""
    (tmp_path / "ablation_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    return tmp_path / "started.txt"


def step(name, log, seconds=0.0, needs=()):
    return Step(
        name, name, ("ablation_work", name, "{here}", str(log), str(seconds)), "out.txt", needs=tuple(needs)
    )


def steps_for(log, seconds, n=4):
    first = step("first", log)
    return [step(f"arm{i}", log, seconds, [first]) for i in range(n)]


def start_run(tmp_path, log, seconds, n, n_started, warm):
    """Start a run of n arms in another process; returns as soon as so many steps have started."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(log), str(seconds), str(n), str(warm)]
    driver = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while not log.exists() or len(started(log)) < n_started:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.05)
    return driver


def kill_when(tmp_path, log, seconds, n, n_started, warm):
    """Start a run of n arms in another process and kill it as soon as so many steps have started."""
    driver = start_run(tmp_path, log, seconds, n, n_started, warm)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def started(log):
    return sorted(log.read_text().split())


def test_each_step_runs_once_after_what_it_needs(tmp_path, work, run):
    steps = steps_for(work, 0.0)
    run(tmp_path, steps, 2, lambda line: None)
    assert started(work) == ["arm0", "arm1", "arm2", "arm3", "first"]
    assert work.read_text().startswith("first\n") and all(is_done(tmp_path, one) for one in steps)
    run(tmp_path, steps, 2, lambda line: None)
    assert len(started(work)) == 5
    (step_folder(tmp_path, steps[0]) / "out.txt").unlink()  # a marker alone is not a result
    run(tmp_path, steps, 2, lambda line: None)
    assert started(work).count("arm0") == 2 and len(started(work)) == 6


def test_a_failing_step_is_told_and_the_others_run(tmp_path, work, run):
    broken, good = step("broken", work), step("good", work)
    after = step("after", work, needs=[broken])
    said = []
    run(tmp_path, [after, good], 2, said.append)
    assert is_done(tmp_path, good) and not is_done(tmp_path, after)
    chain = [one.folder for one in after.chain()]
    assert str(failure(tmp_path, chain)) == "broken: ValueError: it does not work (exit code 1)"
    assert "after" not in started(work) and any("skipped" in line for line in said)
    run(tmp_path, [after], 1, said.append)  # tried again, as the reason may be gone
    assert started(work).count("broken") == 2


def test_a_step_that_leaves_nothing_has_failed(tmp_path, work, run):
    odd = Step("odd", "odd", ("ablation_work", "odd", "{here}", str(work), "0"), "else.txt")
    run(tmp_path, [odd], 1, lambda line: None)
    assert str(failure(tmp_path, [odd.folder])) == "odd: left no else.txt"


def test_killed_at_once_and_started_again_nothing_finished_is_done_twice(tmp_path, work, run, warm):
    steps = steps_for(work, 3.0)
    kill_when(tmp_path, work, 3.0, 4, n_started=3, warm=warm)  # the first step is done, two arms are at work
    assert not any(is_done(tmp_path, one) for one in steps)
    run(tmp_path, steps, 2, lambda line: None)
    assert all(is_done(tmp_path, one) for one in steps)
    count = started(work)
    assert count.count("first") == 1  # finished before: not run again
    assert all(count.count(f"arm{i}") <= 2 for i in range(4))  # arms that were at work run again


def test_a_step_ends_with_a_killed_ablation(tmp_path, work, warm):
    (one,) = steps_for(work, 60.0, 1)
    kill_when(tmp_path, work, 60.0, 1, n_started=2, warm=warm)
    until = time.monotonic() + 10
    while (lock := _lock(step_folder(tmp_path, one))) is None:  # the step's process holds it to its end
        assert time.monotonic() < until
        time.sleep(0.1)
    os.close(lock)


def test_a_step_that_another_run_is_at_is_waited_for(tmp_path, work, run, warm):
    (one,) = steps_for(work, 3.0, 1)
    driver = start_run(tmp_path, work, 3.0, 1, n_started=2, warm=warm)
    run(tmp_path, [one], 1, lambda line: None)
    assert driver.wait(60) == 0 and is_done(tmp_path, one)
    assert started(work) == ["arm0", "first"]


def test_the_last_error_of_a_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("step 1\rstep 2\nerror: data.train: no such file\n  warning: later noise\n")
    assert last_error(log) == "error: data.train: no such file"
    log.write_text(
        "\ralign:  50%|##  | 1/2 [00:00<00:00, 2.4step/s]error: step 1: it is nan\n\ralign:  50%|##  | 1/2\n"
    )
    assert last_error(log) == "error: step 1: it is nan"
    log.write_text("torch.OutOfMemoryError: too much\n")
    assert last_error(log).startswith("torch.OutOfMemoryError")
    log.write_text("")
    assert last_error(log) == "printed nothing"


# ---- the whole, small ----
@pytest.fixture(scope="module")
def small(tmp_path_factory, llm_dir):
    """A finished ablation: two encoders, one of them a plug-in, and an arm that cannot train."""
    from test_encoders_plugins import PLUGIN

    folder = tmp_path_factory.mktemp("ablation")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "bands.py").write_text(PLUGIN)
    rng = np.random.default_rng(0)
    records = []
    for clip in range(4):
        save_wav(folder / f"{clip}.wav", (0.1 * rng.standard_normal(16000)).astype(np.float32), 16000)
        records += [
            {"id": f"{clip}-{q}", "audio": f"{clip}.wav", "question": f"What is {q}?", "answer": "a bell"}
            for q in "ab"
        ]
    for name in ("train", "validation", "test"):
        write_manifest(folder / f"{name}.jsonl", records)
    optim = {"steps": 2, "batch_size": 4, "lr": 1e-3, "warmup_steps": 0}
    config = {
        "out": str(folder / "out"),
        "baseline": "logmel",
        "inputs": {"train": [f"{folder}/train.jsonl"], "validation": [f"{folder}/validation.jsonl"],
                   "test": f"{folder}/test.jsonl", "llm": str(llm_dir)},
        "stages": {"align": {"projector": "linear", "optim": optim, "data": {"cache_features": True},
                             "run": {"log_every": 1}}},
        "axes": {"encoder": {"logmel": {"align": {"encoder": "logmel"}}, "bands": {"align": {"encoder": "bands"}}}},
        "references": {"broken": {"align": {"encoder": "logmel", "optim": {"lr": 1e30}, "run": {"seed": 7}}}},
        "seeds": [0],
        "scoring": {"options": {"max_new_tokens": 3}, "controls": ["no_audio"]},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    words = ["--plugins", str(folder / "plugins"), "ablate", str(folder / "small.yaml")]
    assert main(words) == 0
    return folder, words


def report_of(folder):
    return {
        file.name: file.read_bytes() for file in sorted((folder / "out/report").rglob("*")) if file.is_file()
    }


@pytest.mark.slow
def test_a_report_of_all_arms_a_plug_in_among_them(small):
    folder, _ = small
    text = (folder / "out/report/report.md").read_text()
    assert "logmel (baseline)" in text and "| bands " in text
    assert "| broken | 6.25 | failed | 0 of 1 |" in text and "is not a number" in text
    assert " > " not in text.split("## Arms")[0]  # two steps tell nothing apart
    assert (folder / "out/report/figures/pareto-flops.svg").read_text().startswith("<svg")
    assert "What the tests support" in (folder / "out/report/report.html").read_text()
    rows = (folder / "out/report/runs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["arm", "bands", "logmel", "broken"]


@pytest.mark.slow
def test_the_report_comes_out_the_same_from_what_is_stored(small, monkeypatch, capsys):
    folder, words = small
    before = report_of(folder)
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is run
    assert main([*words, "--report-only"]) == 0
    assert report_of(folder) == before
    index = json.loads((folder / "out/arms.json").read_text())
    scored = index["arms"][1]["runs"][0]["score"]
    file = folder / "out/steps" / scored / "run/predictions.jsonl"
    kept = file.read_text()
    file.write_text(kept.replace('"prediction": "', '"prediction": "a bell" , "said": "'))
    assert main([*words, "--report-only"]) == 0
    assert report_of(folder)["arms.csv"] != before["arms.csv"]  # it is made from the stored answers
    file.write_text(kept)
    assert main([*words, "--report-only"]) == 0
    assert report_of(folder) == before


@pytest.mark.slow
def test_run_again_it_does_only_what_is_missing(small, capsys):
    folder, words = small
    before = report_of(folder)
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "broken, seed 0: align: FAILED" in said and "logmel, seed 0" not in said.split("# Ablation")[0]
    assert report_of(folder)["arms.csv"] == before["arms.csv"]


@pytest.mark.slow
def test_another_ablation_takes_what_the_two_have_in_common(small, tmp_path, monkeypatch):
    folder, words = small
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is run
    changes = [f"out={tmp_path}/other", f"work={folder}/out", "references={}"]
    assert main([*words, *changes]) == 0
    ours, theirs = (
        (place / "report/runs.csv").read_text().splitlines() for place in (tmp_path / "other", folder / "out")
    )
    assert ours[1:3] == theirs[1:3] and len(ours) == 3 and not (tmp_path / "other/steps").exists()
    assert main([*words, *changes, "--report-only"]) == 0


@pytest.mark.slow
def test_forks_and_new_interpreters_give_the_same_weights_and_answers(small, tmp_path):
    folder, words = small
    one = [f"out={tmp_path}/cold", "references={}", "warm_start=false"]
    alone = yaml.safe_load((folder / "small.yaml").read_text())
    del alone["axes"]["encoder"]["bands"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(alone))
    assert main([*words[:-1], str(tmp_path / "one.yaml"), *one]) == 0
    found = [file for kind in ("*.safetensors", "predictions.jsonl")
             for file in (tmp_path / "cold/steps").rglob(kind) if "checkpoints" not in file.parts]  # fmt: skip
    assert len(found) >= 2
    for file in found:
        warm = folder / "out" / file.relative_to(tmp_path / "cold")
        assert file.read_bytes() == warm.read_bytes(), file.name


@pytest.mark.slow
def test_a_dry_run_says_what_arms_cost(small, capsys):
    _, words = small
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "trainable" in said and "expected time" in said and "3 arms, 1 seeds" in said


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    config = ROOT / "configs/ablation/tiny.yaml"
    assert main(["ablate", str(config), "--report-only", f"out={tmp_path}"]) == 2
    assert "holds no ablation" in capsys.readouterr().err
