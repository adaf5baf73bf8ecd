"""The internal port's HTTP server, in the node's own loop.

It shares the process's files with the clients: its sockets are bounded, and who keeps it waiting is dropped.
"""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SOCKETS_MAX: Final = 256
"""Over it the oldest socket goes that waits for its client."""
REQUEST_S: Final = 10.0
"""A request must be complete this long after its first byte, and the first one after the connection was made."""
KEEP_ALIVE_S: Final = 5
"""A connection on which nothing is asked is closed this long after the last answer."""


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the node has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the process's signals alone."""
        yield


class InternalProtocol(H11Protocol):
    """A socket on the internal port; `sockets` are all of them, the oldest first."""

    def __init__(self, sockets: dict["InternalProtocol", None], **options: Any) -> None:
        super().__init__(**options)
        self._sockets = sockets
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether the node waits for the client: for a request, or the rest of one."""
        return not self._asked or self.cycle.response_complete or self.cycle.more_body

    @property
    def _asked(self) -> bool:
        """Whether a request has ever come, whose cycle there is then."""
        return bool(self.cycle)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the first request's time, and drop the socket that is one too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._sockets[self] = None
        self._start_timer()
        if len(self._sockets) > SOCKETS_MAX:
            next((other for other in self._sockets if other.waits), self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self._asked and not self.cycle.more_body:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        self._sockets.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises `OSError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def make_server(app: ASGIApp) -> HttpServer:
    """Make the server; `await server.serve(sockets=[…])` runs it until `should_exit` is set."""
    sockets: dict[InternalProtocol, None] = {}

    def new_protocol(**options: Any) -> InternalProtocol:
        return InternalProtocol(sockets, **options)

    return HttpServer(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", new_protocol),
            timeout_keep_alive=KEEP_ALIVE_S,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
        )
    )
