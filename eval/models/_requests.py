"""HTTP requests to an endpoint: persistent connections, a deadline per answer, errors with or without a retry."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from alm.common.errors import UserError
from alm.common.json_text import parse_json
from alm.common.text import printable
from eval.errors import EvaluationError

_CHUNK = 1 << 16
_LARGEST_ANSWER = 1 << 24
_LONGEST_WAIT_S = 300.0
_JUDGE_ATTEMPTS = 3
_JUDGE_TIMEOUT_S = 60.0


class Busy(Exception):
    """The endpoint may answer later: overload, a broken connection, or an invalid answer.

    Attributes:
        wait_s: Seconds of its Retry-After header; None without one.
        overload: Whether fewer requests at a time help.
    """

    def __init__(self, message: str, wait_s: float | None = None, overload: bool = False) -> None:
        super().__init__(message)
        self.wait_s, self.overload = wait_s, overload


class Refused(Exception):
    """The endpoint does not answer this question.

    Attributes:
        hopeless: Whether it will answer none: a wrong key, address or model.
    """

    def __init__(self, message: str, hopeless: bool) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class RetriesExhausted(Exception):
    """A question was asked as often as allowed."""


class Connections:
    """Requests to one address; each thread keeps its connection open.

    Args:
        url: The address that is posted to.
        key: Sent as bearer token; empty sends none. It appears in no message.
        timeout_s: Longest time from the request to the last byte of its answer.
    """

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._url, self._timeout_s = urlsplit(url), timeout_s
        self._key = key
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._kept = threading.local()

    def post(self, body: bytes) -> tuple[str, dict[str, int]]:
        """Ask for a completion.

        Returns:
            The answer, and the tokens that the endpoint counted (`prompt`, `answer`); empty if it counted none.

        Raises:
            Busy: A retry may help.
            Refused: A retry does not help.
        """
        deadline = time.monotonic() + self._timeout_s
        kept = getattr(self._kept, "connection", None)
        connection = kept or self._connect()
        try:
            try:
                status, headers, text = self._exchange(connection, body, deadline)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
                if kept is None:
                    raise
                # The server had closed a kept connection, as it may; the request was not sent yet.
                connection = self._connect()
                status, headers, text = self._exchange(connection, body, deadline)
        except TimeoutError as error:
            connection.close()
            self._kept.connection = None
            raise Busy(f"no whole answer within {self._timeout_s:g} s", overload=True) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._kept.connection = None
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise Busy(
                f"the connection broke ({reason})", overload=isinstance(error, ConnectionError)
            ) from error
        if headers.get("connection", "").lower() == "close":
            connection.close()
            self._kept.connection = None
        else:
            self._kept.connection = connection
        if status == 200:
            return read_completion(text)
        message = f"HTTP {status}: {self._shown(text)}"
        if status in (408, 409, 425, 429) or status >= 500:
            raise Busy(message, _wait_s(headers.get("retry-after")), overload=status in (429, 503))
        raise Refused(message, hopeless=status in (301, 302, 307, 308, 401, 402, 403, 404, 405))

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        secure = self._url.scheme == "https"
        proxy = urllib.request.getproxies().get(self._url.scheme)
        if proxy and not urllib.request.proxy_bypass(host):
            via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            address = (via.hostname or "", via.port)
        else:
            address, proxy = (host, port), None
        connection: http.client.HTTPConnection
        if secure:
            connection = http.client.HTTPSConnection(*address, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(*address)
        if proxy:
            connection.set_tunnel(host, port or (443 if secure else 80))
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, body: bytes, deadline: float
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request and read its whole answer before the deadline."""
        connection.timeout = _left(deadline)
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        connection.request("POST", self._url.path, body, self._headers)
        sock = connection.sock
        sock.settimeout(_left(deadline))
        response = connection.getresponse()
        pieces, size = [], 0
        while True:
            sock.settimeout(_left(deadline))  # a slow body may not prolong it byte by byte
            piece = response.read1(_CHUNK)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > _LARGEST_ANSWER:
                raise http.client.HTTPException("the answer is larger than 16 MiB")
        response.close()  # `read1` leaves it open at the end of a body of known length
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, b"".join(pieces)

    def _shown(self, body: bytes) -> str:
        """The message of an error, without the key."""
        text = body.decode("utf-8", "replace")
        try:
            found: Any = parse_json(text, "the body", EvaluationError)
            error = found.get("error", found.get("detail", found))
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (UserError, AttributeError):
            pass
        if self._key:
            text = text.replace(self._key, "[key]")
        return printable(" ".join(text.split()))[:300]


def read_completion(body: bytes) -> tuple[str, dict[str, int]]:
    """The answer in the body of a chat completion, and the tokens it took.

    Raises:
        Busy: It is not a chat completion.
    """
    try:
        found: Any = parse_json(body.decode(), "the body", EvaluationError)
        message = found["choices"][0]["message"]
        content = message.get("content")
        if content is None:
            content = message.get("refusal") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        if not isinstance(content, str):
            raise TypeError(type(content).__name__)
    except (UserError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Busy("the answer is not a chat completion in JSON") from error
    usage = found.get("usage")
    counts = {
        "prompt": usage.get("prompt_tokens") if isinstance(usage, dict) else None,
        "answer": usage.get("completion_tokens") if isinstance(usage, dict) else None,
    }
    tokens = {
        name: n for name, n in counts.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0
    }
    return content.strip(), tokens


def endpoint_judge(address: str, model: str, max_tokens: int) -> Callable[[str], str]:
    """Open a judge of answers: a language model behind an endpoint, whose key is in OPENAI_API_KEY.

    Args:
        address: `http://host/v1`.
        model: Name of the model there.
        max_tokens: Longest reply in tokens.

    Returns:
        A function from a prompt to the reply, for any number of threads. It raises `Busy` after three attempts, and
        `Refused` at once.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    connections = Connections(f"{address.rstrip('/')}/chat/completions", key, _JUDGE_TIMEOUT_S)

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        for _ in range(_JUDGE_ATTEMPTS - 1):
            with suppress(Busy):
                return connections.post(json.dumps(body).encode("utf-8"))[0]
        return connections.post(json.dumps(body).encode("utf-8"))[0]

    return ask


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _wait_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if not header:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(wait, 0.0), _LONGEST_WAIT_S) if wait == wait else None
