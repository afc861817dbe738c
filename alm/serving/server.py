"""Runs the application: address, signals and engine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from alm.common.errors import ConfigError, UserError
from alm.serving.access import Address, check_address
from alm.serving.app import Service
from alm.serving.engine import Engine
from alm.serving.memory import limit_arenas, release_freed_memory
from alm.serving.requests import Limits

# Bodies of megabytes leave free memory between objects in use. Returning it to the system takes some milliseconds.
_RELEASE_S = 5.0
_ARENAS = 2
_SILENT_S = 30.0  # longest time for the head of a request


class _Server(uvicorn.Server):
    """Server that tells the application when to stop, and closes idle connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._idle_since: dict[Any, float] = {}

    def hang_up(self) -> None:
        """Close connections that have had no request for a while; uvicorn would keep them forever."""
        now = time.monotonic()
        connections: set[Any] = self.server_state.connections
        cycles = {one: getattr(one, "cycle", None) for one in connections}  # a request and its answer
        idle = [one for one, cycle in cycles.items() if cycle is None or cycle.response_complete]
        self._idle_since = {one: self._idle_since.get(one, now) for one in idle}
        for one, since in self._idle_since.items():
            if now - since > _SILENT_S:
                one.transport.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; the second SIGINT ends at once."""
        if not self.should_exit:
            self.service.drain()
            os.write(2, b"stopping; current answers are finished first\n")
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # answered here: uvicorn would raise them again at its end


def serve(
    make_engine: Callable[[], Engine],
    name: str,
    address: Address,
    key: str | None,
    limits: Limits,
    ready: Callable[[str], None] = lambda url: print(f"serving at {url}", flush=True),
    **settings: Any,
) -> int:
    """Serve until SIGINT or SIGTERM, or until the engine ends.

    Args:
        make_engine: Builds the engine, once the address is bound.
        name: The model's name in the API.
        address: Where to listen.
        key: The key that clients must send.
        limits: Limits of one request.
        ready: Called with the server's URL as soon as it answers.
        **settings: Further arguments of `alm.serving.app.Service`.

    Returns:
        Exit code: 0 after a signal.

    Raises:
        ConfigError: The address cannot be bound, or a key is missing.
        UserError: The engine does not start, or has ended.
    """
    check_address(address, key)
    limit_arenas(_ARENAS)
    sockets = [_bind(address)]
    host, port = sockets[0].getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def run() -> int:
        engine = make_engine()
        service = Service(
            engine, name, limits, key=key, own_host_only=address.own_host_only and key is None, **settings
        )
        config = uvicorn.Config(
            service,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=int(service.drain_s) + 5,
        )
        server = _Server(config, service)
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        try:
            starting = asyncio.ensure_future(engine.start())
            waiting = asyncio.ensure_future(stopping.wait())
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not starting.done():
                starting.cancel()
                return 0
            await starting
            serving = asyncio.ensure_future(server.serve(sockets=sockets))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            if not serving.done():
                ready(url)
            problem = None
            next_release = time.monotonic() + _RELEASE_S
            while not serving.done():
                await asyncio.wait({serving}, timeout=0.5)
                server.hang_up()
                if time.monotonic() >= next_release:
                    await asyncio.to_thread(release_freed_memory)
                    next_release = time.monotonic() + _RELEASE_S
                problem = problem or (None if server.should_exit else engine.problem())
                if problem is not None:
                    server.handle_exit(signal.SIGTERM, None)
            await serving
            if problem is not None:
                raise UserError(f"the engine has ended ({problem}); its output says why")
            return 0
        finally:
            await engine.stop()

    try:
        return asyncio.run(run())
    finally:
        for one in sockets:
            one.close()


def _bind(address: Address) -> socket.socket:
    """A listening socket."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, sockaddr = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(sockaddr)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"{address.host}:{address.port}: cannot listen there ({error}); choose another --host or --port"
        ) from error
    return bound
