"""Memory of the server: what large requests used goes back to the system."""

import os
import platform
import signal
import subprocess
import threading

import pytest

from alm.common.processes import child_command, child_environment
from alm.serving.requests import Limits

# Threads keep a small object behind each large buffer, so the heaps' ends stay in use when the buffers are freed.
PROGRAM = """
import resource, sys, threading
from alm.serving.memory import limit_arenas, release_freed_memory

def mib(start="Private_Dirty:"):
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(start)) / 1024

limit_arenas(2)
sum(len(bytearray(30 << 20)) for _ in range(2))  # from now on, buffers of this size come from the heaps
kept = []

def work():
    large = []
    for _ in range(6):
        large.append(bytearray(6 << 20))
        kept.append([bytes(5000) for _ in range(4)])

for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
before = mib()
release_freed_memory()
print(before, mib(), len(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory in this way")
def test_freed_memory_goes_back_to_the_system():
    out = subprocess.check_output(
        child_command("-c", PROGRAM),
        env=child_environment(),
        text=True,
    )
    before, after, _ = map(float, out.split())
    assert after < before - 20, "MiB before and after"


def test_systems_without_such_functions_have_nothing_to_do(monkeypatch):
    from alm.serving import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory._of_libc("malloc_trim") is None
    memory.limit_arenas(2)
    memory.release_freed_memory()


def test_a_server_gives_memory_back_until_it_ends(monkeypatch):
    """The command's own loop, without a model, as this test is not about requests."""
    pytest.importorskip("uvicorn", reason="needs alm-toolkit[serve]")
    from alm.serving import server
    from alm.serving.access import Address

    class Idle:
        sample_rate, audio_token = 16000, "<|audio|>"

        async def start(self):
            pass

        async def stop(self):
            stopped.set()

        def problem(self):
            return None

    stopped, releases, arenas, found = threading.Event(), threading.Semaphore(0), [], []
    monkeypatch.setattr(server, "_RELEASE_S", 0.0)
    monkeypatch.setattr(server, "limit_arenas", arenas.append)
    monkeypatch.setattr(server, "release_freed_memory", releases.release)

    def end_after_two(url):
        def wait():
            found.extend(releases.acquire(timeout=20) for _ in range(2))
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, daemon=True).start()

    code = server.serve(Idle, "idle", Address("127.0.0.1", 0), None, Limits(), end_after_two)
    assert code == 0 and stopped.is_set() and arenas == [2] and found == [True, True]
