"""A handful of interrupted commands; `python -m benchmarks.faults` runs as many as wanted."""

import subprocess

import pytest

from alm.common.processes import child_command, child_environment
from benchmarks.faults import ROOT, differences, tracebacks


@pytest.mark.slow
def test_interrupted_commands_end_with_the_same_result(tmp_path):
    words = ("--kills", "6", "--seed", "3", "--kinds", "align", "eval", "shard", "--alive-s", "60")
    command = child_command("-m", "benchmarks.faults", *words, "--folder", str(tmp_path / "faults"))
    done = subprocess.run(
        command, env=child_environment({"OMP_NUM_THREADS": "1"}), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "6 trials, 0 failed, 0 slow" in done.stdout


def test_differences_are_named():
    assert differences({"a": "1"}, {"a": "1"}) == []
    assert differences({"a": "1", "c": "2"}, {"a": "2", "b": "1"}) == [
        "['b'] is missing", "['c'] is left over", "['a'] differs",
    ]  # fmt: skip


def test_a_launchers_own_traceback_is_not_ours():
    start = "Traceback (most recent call last):\n"
    theirs = f'{start}  File "{ROOT}/.venv/lib/python3.11/site-packages/torch/distributed/run.py", line 994\n'
    ours = f'{start}  File "{ROOT}/alm/cli.py", line 1\n'
    assert tracebacks(theirs + "more of the log\n", True) == 0 and tracebacks(theirs, False) == 1
    assert tracebacks(theirs + ours, True) == 1
