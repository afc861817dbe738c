"""A small fuzzing harness: run many damaged inputs, and report what ends in anything but success or a clear refusal.

A file `tests/fuzz_<target>.py` has `main(seconds) -> int`, usually `return report(fuzz("<target>", case, seconds))`.
`make fuzz` runs every one of them; a short form in the tests is
`assert not fuzz("<target>", case, n=50, seed=0).findings`.
"""

import contextlib
import copy
import io
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from alm.common.errors import UserError

LIMIT_S = 20.0
"""An input that takes longer is a hang."""

Case = Callable[[random.Random], tuple[str, Callable[[], Any]]]
"""From a random generator: a description of one input, and the action that reads it."""


class Hang(BaseException):
    """The action took longer than the limit; no `except Exception` of the code under test catches it."""


@dataclass
class Outcome:
    """What a fuzzing run found; `counts` has how many inputs were accepted, refused, or are findings."""

    target: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def fuzz(
    target: str, case: Case, seconds: float | None = None, n: int | None = None, seed: int | None = None
) -> Outcome:
    """Run inputs for some seconds, or so many; input `i` depends on the seed and `i` only.

    An action passes if it returns None, 0, 1 or 2, or raises UserError or SystemExit with one of these codes. To check
    for wrong data, let it raise AssertionError.
    """
    assert (seconds is None) != (n is None), "give seconds or n"
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    outcome = Outcome(target, seed)
    started, number = time.monotonic(), 0
    while number < n if n is not None else time.monotonic() - started < (seconds or 0):
        description, action = case(random.Random(f"{seed}/{number}"))
        result = attempt(action)
        outcome.counts[result if result in ("accepted", "refused") else "findings"] += 1
        if result not in ("accepted", "refused"):
            outcome.findings.append(f"{target}, seed {seed}, input {number}: {description}\n{result}")
        number += 1
    return outcome


def attempt(action: Callable[[], Any], limit_s: float = LIMIT_S) -> str:
    """`accepted`, `refused`, or what went wrong; what the action prints is dropped."""
    try:
        with (
            _limit(limit_s),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            code = action()
    except UserError as error:
        return "refused" if str(error).strip() else f"{type(error).__name__} without a message"
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
    except Hang:
        return f"takes longer than {limit_s:g} s\n{traceback.format_exc()[-3000:]}"
    except Exception:
        return traceback.format_exc()[-3000:]
    if isinstance(code, int) and code not in (0, 1, 2):
        return f"exit code {code}"
    return "refused" if isinstance(code, int) and code else "accepted"


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(*outcomes: Outcome) -> int:
    """Print counts, seeds and findings; returns how many findings there are."""
    for outcome in outcomes:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(outcome.counts.items()))
        print(f"{outcome.target}: seed {outcome.seed}: {counts or 'nothing was run'}")
        for finding in outcome.findings:
            print(f"FINDING {finding}\n")
    return sum(len(outcome.findings) for outcome in outcomes)


HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**9, -(2**63), 2**64, 10**400, 0.0, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), -float("inf"), "", " ", "x", "a" * 300, "a" * 5000, "../../x", "/", "\0", "\ud800", "\x1b]0;x\x07",
    "é", "\u202e", "{{ 1/0 }}", "=1+1", "<b>", "1e999", "nan", "-1", [], {}, [None], [[]], {"": None}, {"a": {"b": 1}},
    [1, "a", None], ["x"] * 1000,
)  # fmt: skip


def hostile_value(rng: random.Random, old: Any = None) -> Any:
    """A value to replace another one: of another type, out of range, empty, huge, or slightly different."""
    near = [old * 2, -old, old + 1, old - 1, str(old), [old]] if type(old) in (int, float) else []
    if isinstance(old, str):
        near = [old[:-1], old + "x", old.upper(), [old], {old: old}]
    elif isinstance(old, list):
        near = [old[:-1], old + old, old[::-1], {"0": old}]
    return copy.deepcopy(rng.choice([*HOSTILE_VALUES, *near, *near]))


def corrupted(rng: random.Random, tree: Any) -> tuple[str, Any]:
    """A copy of nested dictionaries and lists in which one place is replaced, removed, renamed or added to.

    Returns:
        What was done, and the copy.
    """
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return "replaced all", hostile_value(rng, tree)
    path, parent, key = rng.choice(places)
    way = rng.choice(("replace", "replace", "replace", "remove", "add"))
    if way == "remove":
        del parent[key]
    elif way == "add" and isinstance(parent, dict):
        parent[rng.choice([f"{key}x", "", "unknown", "\0"])] = hostile_value(rng)
    else:
        parent[key] = hostile_value(rng, parent[key])
        return f"{path} = {repr(parent[key])[:80]}", tree
    return f"{way} {path}", tree


def _places(tree: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield f"{path}.{key}", tree, key
        yield from _places(tree[key], f"{path}.{key}")


def damaged(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """A copy of bytes with bits flipped, cut, doubled, zeroed, or filled with random bytes."""
    way = rng.choice(("flip", "flip", "flip", "cut", "insert", "zero", "empty", "repeat"))
    at = rng.randrange(len(data) + 1)
    if way == "flip" and data:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 3, 30))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return "flip bits", bytes(changed)
    if way == "cut":
        return f"cut at {at}", data[:at]
    if way == "insert":
        return f"insert at {at}", data[:at] + rng.randbytes(rng.choice((1, 3, 100))) + data[at:]
    if way == "zero":
        return f"zeros at {at}", data[:at] + b"\0" * min(20, len(data) - at) + data[at + 20 :]
    if way == "repeat":
        return "repeat", data + data[at:]
    return "empty", b""


def run_all(seconds: float) -> int:
    """Run every fuzz target in this folder; returns how many findings there are."""
    import importlib
    import sys
    from pathlib import Path

    folder = Path(__file__).parent
    sys.path.insert(0, str(folder))
    found = 0
    for file in sorted(folder.glob("fuzz_*.py")):
        found += importlib.import_module(file.stem).main(seconds)
    print(f"{found} findings" if found else "no findings")
    return found


if __name__ == "__main__":
    import sys

    sys.exit(1 if run_all(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0) else 0)
