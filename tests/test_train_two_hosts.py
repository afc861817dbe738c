"""Two hosts, each with its own network, train one model and share folders; one of them dies.

`python -m benchmarks.two_hosts` shows the same with the real launchers and commands.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hosts import Host, missing, two_hosts
from survival import (
    FORK,
    assert_bit_equal,
    child,
    exit_codes,
    free_port,
    make_data,
    make_parts,
    of_stage,
    run_processes,
)
from test_eval_ablation_runs import ROOT, WORK, started, step, steps_for

from alm.common.errors import ConfigError, UserError
from alm.common.processes import check_launch, child_environment, first_machine
from eval.ablation import runner
from eval.ablation.runner import is_done, run_steps
from eval.errors import EvaluationError
from eval.scoring import predictions
from eval.scoring.predictions import PredictionsFile

reason = missing()
needs_hosts = pytest.mark.skipif(reason is not None, reason=str(reason))


def slurm_variables(rank: int, port: int) -> dict[str, str]:
    """The variables of one of two tasks, each on its own machine."""
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    return {**job, "SLURM_PROCID": str(rank), "SLURM_NODELIST": "10.77.0.[1-2]", "MASTER_PORT": str(port)}


def on_host(host: Host, rank: int, port: int, run, event: str = "", count: int = 0) -> None:
    """One of two processes of a run, on a host, as a task of srun."""
    host.running.clear()
    host.enter()
    os.environ.update(slurm_variables(rank, port), GLOO_SOCKET_IFNAME="cable")
    check_launch()
    child(run, event, count)


@needs_hosts
@pytest.mark.slow
def test_a_host_dies_and_the_run_resumes_on_two_and_on_one(tmp_path, llm_dir):
    data = make_data(tmp_path)
    parts = make_parts(tmp_path / "parts", data, llm_dir)
    port = free_port()

    def run_of(name):
        return of_stage("instruct", data, tmp_path / name, parts, optim={"steps": 6, "accumulation": 1})

    def on_both(run, event=("", 0)):
        events = (("", 0), event)
        return exit_codes(
            [
                FORK.Process(target=on_host, args=(hosts[rank], rank, port, run, *events[rank]))
                for rank in (0, 1)
            ]
        )

    whole, two, one = map(run_of, ("whole", "two", "one"))
    assert run_processes(whole) == [0, 0]
    with two_hosts(tmp_path) as hosts:
        first, second = on_both(two, ("forward", 4))
        assert second == -signal.SIGKILL and first == 2  # said in one line, not as a traceback
        assert "another process of this run has ended" in (Path(two.out) / "error.txt").read_text()
        assert [path.name for path in Path(two.out, "checkpoints").iterdir()] == ["checkpoint-2"]
        shutil.copytree(two.out, one.out)
        assert on_both(two) == [0, 0]
    assert_bit_equal(two, whole)
    assert run_processes(one) == [0, 0]
    assert_bit_equal(one, whole)


@needs_hosts
def test_ablations_on_two_hosts_run_every_step_once(tmp_path):
    """Two hosts share the folder; one of them dies, and the other finishes what it had begun."""
    (tmp_path / "ablation_work.py").write_text(WORK)
    log = tmp_path / "started.txt"
    code = (
        "import sys; from pathlib import Path; from test_eval_ablation_runs import steps_for\n"
        "from eval.ablation.runner import run_steps\n"
        "run_steps(Path(sys.argv[1]), steps_for(sys.argv[2], 0.3, 4), 1)"
    )
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests")))
    with two_hosts(tmp_path) as hosts:
        for host in hosts:
            command = [sys.executable, "-c", code, str(tmp_path), str(log)]
            host.start(command, tmp_path / f"{host.name}.log", {"PYTHONPATH": paths})
        said = [tmp_path / f"{host.name}.log" for host in hosts]
        until = time.monotonic() + 100
        while not all("done" in file.read_text() for file in said):
            assert time.monotonic() < until
            time.sleep(0.02)
        hosts[1].kill()
        ended_by_b = said[1].read_text().count(": done, ")
        assert hosts[0].running[0].wait(100) == 0
    runs = started(log)
    assert len(set(runs)) == 5 and all(is_done(tmp_path, one) for one in steps_for(log, 0.3, 4))
    assert said[0].read_text().count(": done, ") + ended_by_b == 5
    assert len(runs) - 5 in (0, 1)  # what the killed host was doing


def test_a_step_that_fails_elsewhere_is_not_tried_again_here(tmp_path, monkeypatch):
    (tmp_path / "ablation_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")]))
    log = tmp_path / "started.txt"
    broken = step("broken", log)
    folder = runner.step_folder(tmp_path, broken)
    folder.mkdir(parents=True)
    lines = []
    with open(folder / "lock", "w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        other = threading.Timer(0.5, lambda: (_fail(folder), fcntl.flock(theirs, fcntl.LOCK_UN)))
        other.start()
        run_steps(tmp_path, [broken], 1, lines.append)
        other.join()
    assert lines == ["[1/1] broken: FAILED in another process"] and not log.exists()
    lines.clear()
    run_steps(tmp_path, [broken], 1, lines.append)  # a new ablation tries it again
    assert started(log) == ["broken"] and "FAILED" in lines[0]


def _fail(folder):
    (folder / "failed.json").write_text('{"error": "theirs"}')


def test_a_folder_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(
        UserError, match="step: the file system has no locks .*; set work to a folder on another"
    ):
        runner._lock(tmp_path / "step")


def test_two_evaluations_do_not_write_into_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "_LOCK_S", 0.1)
    path = tmp_path / "predictions.jsonl"
    with PredictionsFile(path, alone=True) as file:
        file.append([{"id": "a", "key": "k", "control": "none", "prediction": "x"}])
        code = (
            "import sys; from eval.scoring import predictions as p; p._LOCK_S = 0.1\n"
            "p.PredictionsFile(sys.argv[1], alone=True)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], env=child_environment(), capture_output=True, text=True
        )
        assert "another process writes answers into it" in done.stderr
        with pytest.raises(EvaluationError, match="another process writes answers into it"):
            PredictionsFile(path, alone=True)
        with PredictionsFile(path) as readers:
            assert len(readers.lines) == 1
    with PredictionsFile(path, alone=True) as file:
        assert len(file.lines) == 1


# ---- Slurm's variables ----
@pytest.fixture
def clean(monkeypatch):
    """No launcher's variables are set, and none are left behind."""
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # restored at the end
    return monkeypatch


def launched():
    check_launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return [os.environ.get(name) for name in names]


def test_tasks_of_srun_are_processes_of_one_run(clean):
    job = {"SLURM_JOB_ID": "45678", "SLURM_STEP_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "5"}
    for name, value in {**job, "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[003-004,7]-ib,b"}.items():
        clean.setenv(name, value)
    assert launched() == ["5", "8", "1", "gpu003-ib", "25678"]
    assert "SLURM_PROCID" not in child_environment()


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": None},  # the batch script of a job, or its shell: alone
        {"SLURM_NTASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},  # of a job with more
        {"SLURM_PROCID": None},
    ],
)
def test_what_srun_did_not_start_several_times_is_alone(clean, change):
    for name, value in {**slurm_variables(1, 29000), "MASTER_PORT": None, **change}.items():
        if value is not None:
            clean.setenv(name, value)
    assert launched() == [None] * 5


def test_other_launchers_and_given_addresses_win_over_slurm(clean):
    for name, value in {**slurm_variables(1, 29000), "MASTER_ADDR": "elsewhere"}.items():
        clean.setenv(name, value)
    assert launched() == ["1", "2", "0", "elsewhere", "29000"]
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        clean.setenv(name, value)
    assert launched() == ["0", "4", "0", "elsewhere", "29000"]


def test_slurm_variables_that_are_wrong(clean):
    for name, value in {**slurm_variables(1, 29000), "SLURM_NODELIST": ""}.items():
        clean.setenv(name, value)
    with pytest.raises(
        ConfigError, match="SLURM_PROCID with 2 tasks, without SLURM_NODELIST; set MASTER_ADDR"
    ):
        check_launch()
    clean.setenv("SLURM_NTASKS", "two")
    with pytest.raises(ConfigError, match="SLURM_NTASKS='two': expected a whole number"):
        check_launch()


@pytest.mark.parametrize(
    ("machines", "first"),
    [
        ("a,b", "a"),
        ("n[01-04,07],x", "n01"),
        ("n[5,7-9]", "n5"),
        ("r[1-2]n[3-4]", "r1n3"),
        ("g[3]-ib,x", "g3-ib"),
    ],
)
def test_the_first_machine_of_a_list(machines, first):
    assert first_machine(machines) == first
