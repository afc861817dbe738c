"""Concurrent requests, as many as an endpoint accepts; after a failure a request is sent again, with a pause."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress

from eval.models._requests import Busy, Connections, Refused, RetriesExhausted

_FIRST = 4  # requests at the beginning
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0

Found = tuple[str, dict[str, int]] | Exception


class Pool:
    """Sends many questions with several concurrent requests.

    Their number begins small, grows by one with every answer, and halves when the endpoint reports overload; refusals
    of requests that had started before do not halve it again.

    Args:
        most: Maximum number of requests at a time.
        attempts: Number of attempts per question.
        per_minute: Maximum number of requests per minute; None sets no limit.
        connections: Connections to the endpoint.
    """

    def __init__(self, most: int, attempts: int, per_minute: float | None, connections: Connections) -> None:
        self._most, self._attempts, self._connections = most, attempts, connections
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._limit = min(_FIRST, most)
        self._under_way = 0
        self._not_before = 0.0
        self._next_start = 0.0
        self._last_cut = 0.0
        self._stopped = False
        self._changed = threading.Condition()
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self, n: int, body: Callable[[int], bytes]) -> Generator[tuple[int, Found], None, None]:
        """Ask questions 0 … n - 1.

        Args:
            n: Number of questions.
            body: Makes the request of a question; called when it is about to be asked.

        Yields:
            (question, its answer with the tokens it took, or the error that it ended with), as they come.
        """
        for index in range(n):
            self._waiting.put(index)
        found: queue.SimpleQueue[tuple[int, Found] | None] = queue.SimpleQueue()

        def work() -> None:
            while self._enter():
                try:
                    index = self._waiting.get_nowait()
                except queue.Empty:
                    self._leave()
                    break
                try:
                    answer: Found = self._ask(body(index))
                except Exception as error:
                    answer = error
                found.put((index, answer))
                self._leave()
            found.put(None)

        working = min(n, self._most)
        for _ in range(working):
            threading.Thread(target=work, daemon=True).start()
        try:
            while working:
                one = found.get()
                if one is None:
                    working -= 1
                else:
                    yield one
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def finish(self) -> None:
        """Send no further question; answers to requests already sent still arrive."""
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()

    def _ask(self, body: bytes) -> tuple[str, dict[str, int]]:
        """Ask one question until it is answered; the caller holds a place."""
        for attempt in range(1, self._attempts + 1):
            started = self._wait_for_turn()
            try:
                answer = self._connections.post(body)
            except Busy as error:
                if attempt == self._attempts:
                    raise RetriesExhausted(f"{error} (asked {attempt} times)") from error
                self._back_off(error, attempt, started)
            else:
                with self._changed:
                    if self._limit < self._most:
                        self._limit += 1
                        self._changed.notify_all()
                return answer
        raise AssertionError("unreachable")

    def _back_off(self, error: Busy, attempt: int, started: float) -> None:
        """Free the place, pause, and take a place again."""
        pause = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        with self._changed:
            if error.overload and started >= self._last_cut:
                self._limit = max(1, min(self._limit, self._under_way) // 2)
                self._last_cut = time.monotonic()
            if error.wait_s is not None:
                self._not_before = max(self._not_before, time.monotonic() + error.wait_s)
                pause = 0.0
        self._leave()
        self._sleep_until(time.monotonic() + pause)
        if not self._enter():
            raise Refused("the run was stopped", hopeless=True)

    def _wait_for_turn(self) -> float:
        """Wait until the endpoint (Retry-After) and the rate limit allow another request; returns the time."""
        while True:
            with self._changed:
                now = time.monotonic()
                start = max(self._not_before, self._next_start)
                if start <= now or self._stopped:
                    self._next_start = now + self._interval_s
                    return now
            self._sleep_until(start)

    def _sleep_until(self, moment: float) -> None:
        with self._changed:
            while not self._stopped and (left := moment - time.monotonic()) > 0:
                self._changed.wait(left)

    def _enter(self) -> bool:
        with self._changed:
            while not self._stopped and self._under_way >= self._limit:
                self._changed.wait()
            self._under_way += not self._stopped
            return not self._stopped

    def _leave(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
