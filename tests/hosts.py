"""Two hosts on one machine: a network namespace each, joined by a cable, with names of their own.

A command that runs on a host also has process numbers of its own, so that a number of the other host means nothing
there, and ends with it: `Host.kill` is a power cut. Needs Linux, root, `ip` and `unshare`.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_NEW_NET, _NEW_UTS = 0x40000000, 0x04000000  # <sched.h>
# The name first: what the command starts must find it, and both names must have addresses.
_BOOT = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


@dataclass
class Host:
    """One of two hosts.

    Attributes:
        name: Its host name.
        address: Its address on the cable.
        space: Its network namespace.
        names: A file in the form of /etc/hosts, with both hosts.
        running: What was started on it.
    """

    name: str
    address: str
    space: str
    names: Path
    running: list[subprocess.Popen] = field(default_factory=list)

    def start(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen:
        """Start a command on this host; what it prints goes into `log`."""
        inside = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        words = [
            "ip",
            "netns",
            "exec",
            self.space,
            *inside,
            "sh",
            "-c",
            _BOOT,
            "sh",
            self.name,
            str(self.names),
        ]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*words, *command],
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def unplug(self) -> None:
        """Cut the cable: what is sent from now on is lost, and no sender gets an error."""
        subprocess.run(["ip", "-n", self.space, "link", "set", "cable", "down"], check=True)

    def kill(self) -> None:
        """End everything on this host at once."""
        for process in self.running:
            if process.poll() is None:
                # When the first process of a process namespace ends, the kernel ends all others in it.
                process.kill()
                process.wait()
        # Processes that entered the namespace by themselves.
        inside = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True)
        for pid in inside.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def enter(self) -> None:
        """Move this process, which must have one thread only, to the host: its network and its name."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.space}") as space:
            wrong = libc.setns(space.fileno(), _NEW_NET) or libc.unshare(_NEW_UTS)
        if wrong:
            raise OSError(ctypes.get_errno(), "cannot move to the host")
        name = self.name.encode()
        libc.sethostname(name, len(name))


def missing() -> str | None:
    """Return why no hosts can be made on this machine; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    for tool in ("ip", "unshare", "mount", "hostname"):
        if shutil.which(tool) is None:
            return f"network namespaces need the command {tool}"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "--mount-proc", "true"],
        capture_output=True,
    )
    return None if tried.returncode == 0 else "network namespaces are not permitted here"


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Make two hosts, and remove them with all that runs on them.

    Args:
        folder: For the file with their names.
    """
    number = uuid.uuid4().hex[:6]
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n")
    hosts = tuple(
        Host(f"host-{letter}", f"10.77.0.{at}", f"alm-{number}-{letter}", names)
        for at, letter in ((1, "a"), (2, "b"))
    )
    try:
        for host in hosts:
            _ip("netns", "add", host.space)
            _ip("-n", host.space, "link", "set", "lo", "up")
        ends = [["name", "cable", "netns", host.space] for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            _ip("-n", host.space, "address", "add", f"{host.address}/24", "dev", "cable")
            _ip("-n", host.space, "link", "set", "cable", "up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "delete", host.space], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
