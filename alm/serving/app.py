"""OpenAI's chat API over an engine: access, limits and answers.

Order of the checks: key, place in the queue, size of the body, form of the request, audio, then the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alm.common.errors import UserError
from alm.common.json_text import parse_json
from alm.serving.engine import Engine, Finish, shutting_down
from alm.serving.requests import ChatRequest, Limits, RequestError, decode_clips, read_request

logger = logging.getLogger("alm.serving")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DISCARD_S = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Service:
    """The application.

    Args:
        engine: Engine that generates the answers.
        name: The model's name in the API.
        limits: Limits of one request.
        key: The key that clients must send; None accepts every request.
        max_requests: Maximum number of concurrent requests, including waiting ones; more are answered with 429.
        request_s: Longest time in seconds of one request, from its first byte to the last byte of its answer.
        drain_s: Seconds for which current answers may continue after the server has received SIGTERM.
        own_host_only: Refuse requests whose `Host` is not this machine. A web page opened in a browser on this machine
            could otherwise send requests under its own host name.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        limits: Limits,
        key: str | None = None,
        max_requests: int = 128,
        request_s: float = 600.0,
        drain_s: float = 30.0,
        own_host_only: bool = True,
    ) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self._key = None if key is None else _digest(key)
        self.max_requests, self.request_s, self.drain_s = max_requests, request_s, drain_s
        self.own_host_only = own_host_only
        self.n_requests = 0
        self.started = int(time.time())
        self.draining = False
        self._no_more_time = asyncio.Event()
        self._decoding = asyncio.Semaphore(4)  # threads that decode audio at once
        self._app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            exception_handlers={
                RequestError: _refuse,
                HTTPException: _http_error,
                Exception: _fault,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection (ASGI)."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        begun = False

        async def send_noting(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self.request_s):
                try:
                    self._admit(request)
                except RequestError as refusal:
                    await self._discard(receive)
                    await _refuse(request, refusal)(scope, receive, send_noting)
                    return
                await self._app(scope, receive, send_noting)
        except TimeoutError:  # the caller stopped sending its request or reading its answer
            logger.warning("a request took longer than %g s; it was ended", self.request_s)
            if not begun:
                error = RequestError(408, f"took longer than {self.request_s:g} s", "timeout")
                await _refuse(request, error)(scope, receive, send)
        except ClientDisconnect:
            pass

    async def _discard(self, receive: Receive) -> None:
        """Read the rest of a refused request: a client reads the refusal only after it has sent everything."""
        left = 2 * self.limits.body_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return

    def drain(self) -> None:
        """Take no more requests, and end current answers after `drain_s`. Call it in the event loop."""
        self.draining = True
        asyncio.get_running_loop().call_later(self.drain_s, self._no_more_time.set)

    def _admit(self, request: Request) -> None:
        if request.scope["path"] == "/health":  # request.url is built from what the caller names as host
            return
        if self.own_host_only:
            host = request.headers.get("host", "")
            if host.rpartition(":")[0] not in _LOOPBACK and host not in _LOOPBACK:
                raise RequestError(403, "requests must name this machine as their host", "wrong_host")
        if self._key is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._key):
                raise RequestError(
                    401, "no valid API key; send it as 'Authorization: Bearer KEY'", "invalid_api_key"
                )

    def _check_ready(self) -> None:
        if self.draining:
            raise shutting_down()
        if (problem := self.engine.problem()) is not None:
            raise RequestError(503, f"no answers at present: {problem}", "engine_down", retry_after_s=30)

    async def _health(self, request: Request) -> Response:
        self._check_ready()
        return JSONResponse({"status": "ok", "model": self.name})

    async def _models(self, request: Request) -> Response:
        entry = {"id": self.name, "object": "model", "created": self.started, "owned_by": "alm"}
        wanted = request.path_params.get("name")
        if wanted is None:
            return JSONResponse({"object": "list", "data": [entry]})
        if wanted != self.name:
            raise RequestError(404, f"model {wanted[:80]!r} is not served here", "model_not_found", "model")
        return JSONResponse(entry)

    async def _chat(self, request: Request) -> Response:
        if self.n_requests >= self.max_requests:
            await self._discard(request.receive)
            raise RequestError(
                429,
                f"the server is busy with {self.n_requests} requests, its limit; try again in a moment",
                "queue_full",
                retry_after_s=1,
            )
        self._check_ready()
        self.n_requests += 1
        left = False

        def leave() -> None:
            nonlocal left
            self.n_requests -= 0 if left else 1
            left = True

        try:
            chat = await self._read(request)
            if chat.stream:
                answer = self.engine.answer(chat)
                # Awaited before the status is sent, so that an invalid request gets its own status.
                first = await self._next(answer)
                return _Stream(self._events(chat, answer, first), leave)
            content, finish = await self._whole(request, chat)
        except BaseException:
            leave()
            raise
        leave()
        return JSONResponse(self._completion(content, finish))

    async def _read(self, request: Request) -> ChatRequest:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # Browsers let pages of other sites send some content types without asking this server, but not this one.
        if kind != "application/json":
            raise RequestError(400, "Content-Type must be application/json", "invalid_content_type")
        body = await self._body(request)

        def parse() -> ChatRequest:
            try:
                value = parse_json(body.decode("utf-8"), "the body", UserError)
            except UnicodeDecodeError as error:
                raise RequestError(400, "the body is not UTF-8", "invalid_json") from error
            except UserError as error:
                raise RequestError(400, str(error), "invalid_json") from error
            chat = read_request(value, self.name, self.engine.audio_token, self.limits)
            chat.clips = decode_clips(chat, self.engine.sample_rate, self.limits)
            chat.sources = []
            return chat

        async with self._decoding:
            return await asyncio.to_thread(parse)

    async def _body(self, request: Request) -> bytes:
        most = self.limits.body_bytes
        error = RequestError(
            413, f"the body is larger than {most / 2**20:g} MiB; send less audio, or flac", "body_too_large"
        )
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            await self._discard(request.receive)
            raise error
        body = bytearray()
        async for block in request.stream():
            body += block
            if len(body) > most:
                await self._discard(request.receive)
                raise error
        return bytes(body)

    async def _next(self, answer: AsyncGenerator[str | Finish, None]) -> str | Finish:
        """The next piece of an answer; raises `shutting_down` when the server has no more time."""
        coming = asyncio.ensure_future(anext(answer))
        over = asyncio.ensure_future(self._no_more_time.wait())
        try:
            await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise shutting_down()
            return coming.result()
        finally:
            over.cancel()
            if not coming.done():
                coming.cancel()
                await asyncio.wait({coming})

    async def _whole(self, request: Request, chat: ChatRequest) -> tuple[str, Finish]:
        """The whole answer; if the client disconnects, the generation is stopped."""

        async def collect() -> tuple[str, Finish]:
            pieces = []
            async with aclosing(self.engine.answer(chat)) as answer:
                while not isinstance(piece := await self._next(answer), Finish):
                    pieces.append(piece)
            return "".join(pieces), piece

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        collecting, leaving = asyncio.ensure_future(collect()), asyncio.ensure_future(left())
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                raise ClientDisconnect()
            return collecting.result()
        finally:
            for task in (collecting, leaving):
                if not task.done():
                    task.cancel()
            await asyncio.wait({collecting, leaving})

    async def _events(
        self, chat: ChatRequest, answer: AsyncGenerator[str | Finish, None], first: str | Finish
    ) -> AsyncGenerator[str, None]:
        """Server-sent events of a streamed answer."""
        common = {
            "id": _new_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.name,
        }

        def chunk(delta: dict[str, str], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return _event({**common, "choices": [choice]})

        async with aclosing(answer) as pieces:
            try:
                yield chunk({"role": "assistant", "content": ""})
                piece = first
                while not isinstance(piece, Finish):
                    yield chunk({"content": piece})
                    piece = await self._next(pieces)
                yield chunk({}, piece.reason)
                if chat.include_usage:
                    yield _event({**common, "choices": [], "usage": _usage(piece)})
                yield "data: [DONE]\n\n"
            except RequestError as error:
                yield _event(error.body())
            except Exception as error:
                logger.exception("an answer failed", exc_info=error)
                yield _event(_failed().body())

    def _completion(self, content: str, finish: Finish) -> dict[str, Any]:
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish.reason}
        return {
            "id": _new_id(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
            "usage": _usage(finish),
        }


class _Stream(StreamingResponse):
    """A stream that calls `done` at its end, also if the client disconnected before it began."""

    def __init__(self, events: AsyncGenerator[str, None], done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.events, self.done = events, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.done()
            await self.events.aclose()


def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse(error.body(), error.status, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    return JSONResponse(
        RequestError(error.status_code, message, "not_found").body(), error.status_code, error.headers
    )


def _fault(_request: Request, _error: Exception) -> Response:
    return JSONResponse(_failed().body(), 500)  # Starlette raises it again, for the log


def _failed() -> RequestError:
    return RequestError(500, "the answer failed; the server's log says why", "internal_error")


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.answer_tokens,
        "total_tokens": finish.prompt_tokens + finish.answer_tokens,
    }


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _digest(key: str) -> bytes:
    """A hash of a key, so that comparing takes the same time whatever its length."""
    return hashlib.sha256(key.encode()).digest()
