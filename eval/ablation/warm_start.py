"""Warm start: child processes that are forks of one process which has imported the libraries already.

Importing torch, transformers and our stages takes seconds of CPU time in every new interpreter. Here one process, the
starter, imports them once and computes nothing; for every child it forks. So a child begins in the state of a new
interpreter: no seed, thread pool, environment, gradient or memory comes from another child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from alm.common.fingerprint import code_hash
from alm.common.json_text import parse_json
from alm.common.processes import child_command, end_with_parent, run_tied, tied_child_command

AVAILABLE = sys.platform == "linux"
"""Whether children can be forks. On macOS, system libraries do not survive a fork."""

_GRACE_S = 20.0
_POLL_S = 0.05
_MOST_BYTES = 1 << 20  # of one message; the words of a command line are shorter
# Makes `torch.cuda.is_available()` count GPUs without CUDA, which a fork cannot use once it is initialised.
_COUNTS_GPUS = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Child(Protocol):
    """A child process: a `subprocess.Popen`, or one that a starter forked."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, as of `subprocess.Popen`; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; returns the exit code."""


def start_cold(
    words: Sequence[str], log: BinaryIO, kept: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Run a module in a new interpreter, in a process group of its own; it ends with this process.

    Args:
        words: The module and its arguments.
        log: Gets standard output and error.
        kept: File descriptor that the process keeps open, and so do those that it forks.
        environment: All environment variables.
    """
    return subprocess.Popen(
        tied_child_command(*words),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        pass_fds=(kept,),
        process_group=0,  # of its own, to be ended with all it started
    )


class Starter:
    """Starts modules in forks of a process that has imported the libraries; use as a context manager.

    That process starts with the first child. Another one replaces it once the code has changed, or if it was killed;
    its forks end with it.

    Args:
        modules: What it imports; `PACKAGE.*` is every module in a package. Those that cannot be imported are left
            to the children, which say why.
        environment: All environment variables of the children.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.modules, self.environment = tuple(modules), dict(environment)
        self._servers: list[_Server] = []
        self._code = ""

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and with it every fork that still runs: SIGTERM, after 20 seconds SIGKILL."""
        for server in self._servers:
            server.close()

    def start(self, words: Sequence[str], log: BinaryIO, kept: int) -> Child:
        """Run a module in a fork; the arguments are those of `start_cold`."""
        code = code_hash()
        for _ in range(2):  # the process may have been killed since the last child
            if not self._servers or self._servers[-1].gone or self._code != code:
                self._code = code
                self._servers.append(_Server(self.modules, self.environment))
            with contextlib.suppress(OSError, EOFError):
                return self._servers[-1].fork(words, log, kept)
        return start_cold(words, log, kept, self.environment)


class _Server:
    """The parent's side of one process that has imported the libraries.

    Attributes:
        gone: Whether it has ended.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.gone = False
        self._ready = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = "import sys; from eval.ablation.warm_start import serve; serve(*sys.argv[1:])"
        with theirs:
            self._process = subprocess.Popen(
                child_command("-c", code, str(os.getpid()), str(theirs.fileno()), *modules),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C goes to the parent alone
            )

    def fork(self, words: Sequence[str], log: BinaryIO, kept: int) -> Child:
        """Run a module in a fork.

        Raises:
            OSError, EOFError: The process has ended.
        """
        if not self._ready:  # this wait ends on Ctrl-C
            self._receive()
            self._ready = True
        with _signals_held():
            return _Fork(self, int(self._ask(list(words), [log.fileno(), kept])))

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a fork; None while it runs. A fork whose starter has ended counts as killed."""
        try:
            with _signals_held():
                code = self._ask(pid)
            return None if code is None else int(code)
        except (OSError, EOFError):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return -signal.SIGKILL

    def close(self) -> None:
        """End the process and its forks."""
        self._socket.close()
        if not self._ready:
            self._process.kill()
        try:
            self._process.wait(2 * _GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, question: Any, descriptors: Sequence[int] = ()) -> Any:
        try:
            socket.send_fds(self._socket, [json.dumps(question).encode()], list(descriptors))
        except OSError:
            self.gone = True
            raise
        return self._receive()

    def _receive(self) -> Any:
        try:
            message = self._socket.recv(_MOST_BYTES)
        except OSError:
            message = b""
        if not message:
            self.gone = True
            raise EOFError
        return parse_json(message.decode(), "a starter")


class _Fork:
    """A child that a starter forked."""

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.exit_code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (math.inf if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_POLL_S)
        return code


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until a question has its answer, or the next answer would be read as this one's."""
    held: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):  # an ignored signal stays ignored
            before[number] = signal.signal(number, lambda one, _: held.append(one))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for one in held:
        signal.raise_signal(one)


# ---- the process itself ----
def serve(parent: str, descriptor: str, *modules: str) -> None:
    """The entry point of a starter's process; returns in every fork when that has run its module."""
    end_with_parent(int(parent))
    with socket.socket(fileno=int(descriptor)) as asked:
        given = os.environ.get(_COUNTS_GPUS)
        os.environ[_COUNTS_GPUS] = "1"
        for name in modules:
            with contextlib.suppress(Exception):
                _import(name)
        del os.environ[_COUNTS_GPUS]
        if given is not None:
            os.environ[_COUNTS_GPUS] = given
        sys.stdout.flush()
        gc.collect()
        gc.freeze()  # or each collection of a fork would copy the pages of all these modules
        words = _forked(asked)
    if words is not None:
        _run(words)


def _import(name: str) -> None:
    package = importlib.import_module(name.removesuffix(".*"))
    for found in (
        pkgutil.iter_modules(package.__path__, f"{package.__name__}.") if name.endswith(".*") else ()
    ):
        with contextlib.suppress(Exception):
            importlib.import_module(found.name)


def _forked(asked: socket.socket) -> list[str] | None:
    """Answer the parent until it has gone; in a fork, the words of the module to run."""
    running: dict[int, None] = {}
    asked.send(b"0")
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, _MOST_BYTES, 2)
        if not message:
            _stop(list(running))
            return None
        question = parse_json(message.decode(), "a starter")
        if isinstance(question, list):
            starter = os.getpid()
            pid = os.fork()
            if pid == 0:
                _become(starter, *descriptors)
                return [str(word) for word in question]
            with contextlib.suppress(
                OSError
            ):  # here and in the fork: the parent may signal the group at once
                os.setpgid(pid, pid)
            for one in descriptors:
                os.close(one)
            running[pid] = None
            asked.send(json.dumps(pid).encode())
        else:
            ended, status = os.waitpid(question, os.WNOHANG)
            if ended:
                del running[ended]
            code = os.waitstatus_to_exitcode(status) if ended else None
            asked.send(json.dumps(code).encode())


def _become(starter: int, log: int, kept: int) -> None:
    """Make a fork what `start_cold` starts."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    end_with_parent(starter)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.set_inheritable(kept, True)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # as at its import; Python's `random` does so by itself
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def _run(words: list[str]) -> None:
    if "torch" in sys.modules and _accelerator_lost():  # an import has initialised it
        command = tied_child_command(*words)
        command[command.index(str(os.getpid()))] = str(os.getppid())
        os.execv(command[0], command)
    run_tied(str(os.getppid()), *words)


def _accelerator_lost() -> bool:
    from encoders.devices import lost_in_fork

    return lost_in_fork()


def _stop(children: list[int]) -> None:
    until = time.monotonic() + _GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        while children and (number == signal.SIGKILL or time.monotonic() < until):
            children = [pid for pid in children if os.waitpid(pid, os.WNOHANG)[0] == 0]
            time.sleep(_POLL_S)
