"""Processes (import path, ranks), and the fuzzing harness."""

import os
import subprocess
import sys
import time

import fuzzing
import pytest

from alm.common.errors import ConfigError, UserError
from alm.common.import_path import ROOT
from alm.common.processes import (
    check_launch,
    child_command,
    child_environment,
    is_main_process,
    rank,
    world_size,
)
from train.engine.launchers import runner_state, warn_of_build_locks

SHOW = (
    "import sys, json, train, eval.metrics, encoders; print(json.dumps([train.__file__, encoders.__file__]))"
)


OURS = ("train.py", "eval.py", "encoders/__init__.py", "configs/__init__.py")
STRANGERS = (
    "yaml.py",
    "numpy.py",
    "queue.py",
    "typing.py",
    "pickle.py",
    "argparse.py",
    "signal.py",
    "ctypes.py",
)


def working_directory_of_a_user(folder, names=(*OURS, *STRANGERS)):
    """A folder with the user's own modules, each of which leaves a mark when it is imported."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            f"open({str(folder / 'IMPORTED')!r}, 'a').write({name!r})\nraise SystemExit(9)\n"
        )
    return folder


@pytest.mark.parametrize("pythonpath", ["", ":", "{here}", ".:/nonexistent"])
def test_a_child_imports_nothing_from_the_working_directory(tmp_path, monkeypatch, pythonpath):
    """A user may name the folder in PYTHONPATH: then the user's other modules are found, but ours take precedence."""
    here = working_directory_of_a_user(tmp_path)
    explicit = pythonpath not in ("", ":")
    if explicit:
        for name in STRANGERS:
            (here / name).unlink()
        (here / "of_the_user.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", pythonpath.format(here=here))
    code = SHOW + ("; import of_the_user" if explicit else "")
    done = subprocess.run(
        child_command("-c", code), env=child_environment({"X": "1"}), cwd=here, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert ROOT in done.stdout.decode() and not (here / "IMPORTED").exists()


def test_the_command_imports_nothing_from_the_working_directory(tmp_path, monkeypatch):
    here = working_directory_of_a_user(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:")  # the empty entry is the working directory
    done = subprocess.run(
        [sys.executable, "-m", "alm", "list", "projectors"], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0 and "mlp" in done.stdout.split(), done.stderr
    assert not (here / "IMPORTED").exists()


def test_ranks(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    check_launch()
    assert (rank(), world_size(), is_main_process()) == (0, 1, True)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match="RANK=1 with WORLD_SIZE=1"):
        check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE without MASTER_ADDR, MASTER_PORT"):
        check_launch()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    check_launch()
    assert (rank(), world_size(), is_main_process()) == (1, 2, False)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ConfigError, match="RANK='one'"):
        check_launch()


def refuse(text="no"):
    raise UserError(text)


def test_the_fuzzing_harness_tells_refusals_from_findings():
    assert fuzzing.attempt(lambda: None) == fuzzing.attempt(lambda: 0) == "accepted"
    assert fuzzing.attempt(refuse) == fuzzing.attempt(lambda: sys.exit(2)) == "refused"
    assert "exit code 3" in fuzzing.attempt(lambda: 3) and "ZeroDivision" in fuzzing.attempt(lambda: 1 / 0)
    assert "without a message" in fuzzing.attempt(lambda: refuse(" "))
    assert "takes longer" in fuzzing.attempt(lambda: time.sleep(5), limit_s=0.05)
    assert "takes longer" in fuzzing.attempt(lambda: [1 for _ in iter(int, 1)], limit_s=0.05)

    def case(rng):
        number = rng.randrange(3)
        return str(number), [lambda: None, refuse, lambda: 1 / 0][number]

    first, second = (fuzzing.fuzz("self", case, n=30, seed=1) for _ in range(2))
    assert first.counts == second.counts and set(first.counts) == {"accepted", "refused", "findings"}
    assert len(first.findings) == first.counts["findings"] == fuzzing.report(first)


def test_the_fuzzing_harness_changes_one_place():
    import random

    tree = {"a": {"b": [1, 2, {"c": "d"}]}, "e": None}
    for number in range(200):
        what, changed = fuzzing.corrupted(random.Random(number), tree)
        assert changed != tree or what, what
    assert tree == {"a": {"b": [1, 2, {"c": "d"}]}, "e": None}
    data = bytes(range(50))
    changed = [fuzzing.damaged(random.Random(number), data) for number in range(50)]
    assert sum(one != data for _, one in changed) > 40 and len({what.split()[0] for what, _ in changed}) > 4


def test_worker_processes_of_the_command_import_nothing_from_the_working_directory(tmp_path):
    here = working_directory_of_a_user(tmp_path / "here")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "work.py").write_text(
        "import multiprocessing\n"
        "from alm.commands import Command\n"
        "def run(arguments):\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=print, args=('worked',))\n"
        "    worker.start()\n    worker.join()\n    return worker.exitcode\n"
        "COMMAND = Command(lambda commands: commands.add_parser('work').set_defaults(run=run))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "alm", "work", "--plugins", str(tmp_path / "plugins")],
        cwd=here, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr
    assert not (here / "IMPORTED").exists()


LAUNCH = ("/venv/bin/python", "-u", "-m", "deepspeed.launcher.launch")
LOCAL = (*LAUNCH, "--world_info=e30=", "--master_addr=127.0.0.1", "--master_port=29500")
GIVEN = ("--module", "--enable_each_rank_log=None", "--log_level=info", "alm", "train", "a.yaml")
REMOTE = (*LAUNCH, "--world_info=e30=", "--node_rank=0", "--master_addr=10.0.0.1", "--master_port=29500")


@pytest.mark.parametrize(
    ("launch", "parent", "state"),
    [
        # First the runner: script, module, without ssh. Then the parent that a child gets when the runner has ended.
        ((*LOCAL, *GIVEN), ("/venv/bin/python", "/venv/bin/deepspeed", "--num_gpus", "2", "alm"), "running"),
        ((*LOCAL, *GIVEN), ("python", "-m", "deepspeed.launcher.runner", "--module", "alm"), "running"),
        ((*LOCAL, "--node_rank=1", *GIVEN), ("python", "/venv/bin/ds", "--no_ssh"), "running"),
        ((*LOCAL, *GIVEN), ("/sbin/init",), "gone"),
        ((*LOCAL, *GIVEN), ("/usr/lib/systemd/systemd", "--user"), "gone"),
        ((*LOCAL, "--node_rank=1", *GIVEN), ("/usr/bin/tini", "--", "bash"), "gone"),
        # Another Python program that calls the runner; one that cannot be read.
        ((*LOCAL, *GIVEN), ("/usr/bin/python3", "submit.py", "deepspeed-job.yaml"), "unknown"),
        ((*LOCAL, *GIVEN), (), "unknown"),
        # Started by pdsh, and by hand: its parent may be a shell that ends, or init.
        ((*REMOTE, *GIVEN), ("bash", "-c", "cd /home; python -u -m deepspeed.launcher.launch"), "unknown"),
        ((*REMOTE, *GIVEN), ("/sbin/init",), "unknown"),
        ((*LOCAL, "--module", "alm", "train", "a.yaml"), ("/sbin/init",), "unknown"),
    ],
)
def test_whether_the_deepspeed_runner_is_there(launch, parent, state):
    assert runner_state(launch, parent) == state


def test_a_build_that_deepspeed_will_wait_for_is_named(tmp_path, monkeypatch, capfd):
    """PyTorch waits for ever, without a message, for the lock of a build that was killed."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    warn_of_build_locks()
    assert capfd.readouterr().err == ""
    lock.touch()
    os.utime(lock, times=(time.time() - 600,) * 2)
    warn_of_build_locks()
    said = capfd.readouterr().err
    assert "build 'deepspeed_shm_comm', begun 10 min ago" in said and f"delete {lock}\n" in said
    monkeypatch.setenv("LOCAL_RANK", "1")
    warn_of_build_locks()
    assert capfd.readouterr().err == ""
