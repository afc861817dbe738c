"""Children that are forks of a process with the libraries imported: as children of a new interpreter."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from alm.common.processes import child_environment
from eval.ablation import warm_start as warm
from eval.ablation.warm_start import Starter, start_cold

pytestmark = pytest.mark.skipif(not warm.AVAILABLE, reason="children are forks only on Linux")

STATE = """
import json, os, random, signal, sys
import numpy, torch
def state():
    return {
        "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "environment": dict(os.environ), "main": __name__,
        "spec": __spec__.name, "threads": torch.get_num_threads(), "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "group": os.getpgid(0) == os.getpid(), "umask": os.umask(0o22), "leak": hasattr(torch, "leak"),
        "handlers": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "masked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "open": sorted(os.listdir("/proc/self/fd"))[:-1] and len(os.listdir("/proc/self/fd")),
    }
found = state(), [random.random(), float(numpy.random.rand()), torch.rand(1).item()]
torch.set_num_threads(3); torch.manual_seed(7); torch.set_default_dtype(torch.float64); torch.leak = True
torch.use_deterministic_algorithms(True); torch.set_grad_enabled(False)
os.chdir("/"); os.environ["LEAK"] = "1"; random.seed(1); numpy.random.seed(1); os.umask(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps(found))
"""
ENDS = """
import ctypes, os, signal, sys, time
how = sys.argv[1]
if how == "asked":
    sys.exit(2)
if how == "message":
    sys.exit("it says why")
if how == "raised":
    raise ValueError("it does not work")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "crashed":
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)
if how == "waits":
    print("ready", flush=True)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
print("done")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "warm_state.py").write_text(STATE)
    (folder / "warm_ends.py").write_text(ENDS)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return child_environment({"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


@pytest.fixture
def start(environment, tmp_path):
    """Starts a module with either kind of process; returns the process and the file that it prints into."""

    def start(launch, *words):
        file = tmp_path / f"{len(os.listdir(tmp_path))}.txt"
        kept = os.open(os.devnull, os.O_RDONLY)
        with file.open("wb") as log:
            child = launch(list(words), log, kept)
        os.close(kept)
        return child, file

    return start


def test_a_fork_begins_as_a_new_interpreter_whatever_the_one_before_it_did(environment, start):
    def cold(*arguments):
        return start_cold(*arguments, environment=environment)

    said = []
    with Starter(("numpy", "torch"), environment) as starter:
        for launch in (cold, starter.start, starter.start):
            child, file = start(launch, "warm_state", "a", "b c")
            assert child.wait(120) == 0, file.read_text()
            said.append(json.loads(file.read_text().splitlines()[-1]))
    (new, drawn), (first, drawn_first), (second, drawn_second) = said
    for state in (new, first, second):
        state["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)
    assert first == new and second == new and new["main"] == "__main__" and new["argv"][1:] == ["a", "b c"]
    assert (
        len({*drawn, *drawn_first, *drawn_second}) == 9
    )  # generators that start at random do so in every fork


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [("asked", 2, ""), ("message", 1, "it says why"), ("raised", 1, "ValueError: it does not work"),
     ("killed", -signal.SIGKILL, ""), ("crashed", -signal.SIGSEGV, ""), ("well", 0, "done")],
)  # fmt: skip
def test_a_fork_ends_as_a_new_interpreter_does(environment, start, how, code, last):
    with Starter((), environment) as starter:
        for launch in (starter.start, lambda *given: start_cold(*given, environment=environment)):
            child, file = start(launch, "warm_ends", how)
            assert child.wait(60) == code and child.poll() == child.returncode == code
            assert file.read_text().splitlines()[-1:] == ([last] if last else [])


def waiting(start, launch):
    child, file = start(launch, "warm_ends", "waits")
    until = time.monotonic() + 60
    while "ready" not in file.read_text():
        assert time.monotonic() < until and child.poll() is None, file.read_text()
        time.sleep(0.02)
    return child


def alive(group):
    """Processes of a group that have not ended."""
    said = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if line.split()[0] == str(group) and "Z" not in line]


def ended(group):
    until = time.monotonic() + 30
    while alive(group):
        assert time.monotonic() < until
        time.sleep(0.05)
    return True


def test_forks_end_with_the_starter_and_those_that_come_after_have_another(environment, start):
    with Starter((), environment) as starter:
        first, second = waiting(start, starter.start), waiting(start, starter.start)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait(30) == -signal.SIGKILL and second.poll() is None  # one alone
        starter._servers[-1]._process.kill()
        assert second.wait(30) == -signal.SIGKILL and ended(second.pid)
        last, file = start(starter.start, "warm_ends", "well")
        assert last.wait(30) == 0 and file.read_text() == "done\n" and len(starter._servers) == 2


def test_the_end_of_the_block_ends_all_forks_and_what_they_forked(environment, start, monkeypatch):
    monkeypatch.setattr(warm, "_GRACE_S", 1.0)
    with Starter((), environment) as starter:
        child = waiting(start, starter.start)
        process = starter._servers[0]._process
    assert process.returncode is not None and ended(process.pid)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_changed_code_is_imported_again_and_forks_of_the_old_run_to_their_end(
    environment, start, monkeypatch
):
    with Starter((), environment) as starter:
        child = waiting(start, starter.start)
        monkeypatch.setattr(warm, "code_hash", lambda: "changed")
        after, _ = start(starter.start, "warm_ends", "well")
        assert after.wait(30) == 0 and len(starter._servers) == 2 and child.poll() is None


def test_a_starter_that_cannot_run_leaves_it_to_a_new_interpreter(environment, start, monkeypatch):
    monkeypatch.setattr(warm, "child_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    with Starter((), environment) as starter:
        child, file = start(starter.start, "warm_ends", "well")
        assert isinstance(child, subprocess.Popen) and child.wait(60) == 0 and file.read_text() == "done\n"


def test_an_interrupt_while_a_fork_is_asked_for_is_raised_after_the_answer():
    signals = []
    before = signal.signal(signal.SIGINT, lambda *_: signals.append("raised"))
    try:
        with warm._signals_held():
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals
        assert signals == ["raised"]
    finally:
        signal.signal(signal.SIGINT, before)
