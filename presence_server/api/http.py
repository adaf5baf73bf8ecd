"""The internal port's HTTP server, in the node's own loop.

It shares the process's files with the clients: its sockets are bounded, and who keeps it waiting is dropped.
"""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

import anyio
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from presence_server.logs import FloodLog

SOCKETS_MAX: Final = 256
"""Over it the oldest socket goes that waits for its client."""
REQUEST_S: Final = 10.0
"""A request must be complete this long after its first byte, and the first one after the connection was made. What
the transport keeps of an answer must be read within this time, too."""
KEEP_ALIVE_S: Final = 5
"""A connection on which nothing is asked is closed this long after the last answer."""
FINISH_S: Final = 1.0
"""The longest that requests under way may take when the node stops."""

_malformed = FloodLog(__name__, "a request on the internal port is not served", "warning")


class ClientFaults(logging.Filter):
    """Counts what uvicorn warns of: clients cause it as often as they like."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass but warnings."""
        if record.levelno != logging.WARNING:
            return True
        _malformed.note(reason=record.getMessage())
        return False


_client_faults = ClientFaults()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the node has its own. `sockets` are all of its connections."""

    def __init__(self, config: uvicorn.Config, sockets: dict["InternalProtocol", None]) -> None:
        super().__init__(config)
        self._sockets = sockets

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the process's signals alone."""
        yield

    async def finish(self) -> None:
        """Stop to listen, answer what was asked completely, for `FINISH_S` at most, and drop every socket.

        Nothing is left that a client could hold up: a task that is cancelled while it writes to a socket that is
        not read from would go on writing, and keep the process.
        """
        self.should_exit = True
        for server in self.servers:
            server.close()
        with anyio.move_on_after(FINISH_S):
            while self._sockets:
                self._abort([each for each in self._sockets if each.waits])
                await anyio.sleep(0.01)
        while self._sockets:
            self._abort(list(self._sockets))
            await anyio.sleep(0.01)

    @staticmethod
    def _abort(sockets: list["InternalProtocol"]) -> None:
        for each in sockets:
            each.transport.abort()


class InternalProtocol(H11Protocol):
    """A socket on the internal port; `sockets` are all of them, the oldest first."""

    def __init__(self, sockets: dict["InternalProtocol", None], **options: Any) -> None:
        super().__init__(**options)
        self._sockets = sockets
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False
        """Whether a part of the next request has come."""

    @property
    def waits(self) -> bool:
        """Whether the node waits for the client: for a request, the rest of one, or that it reads an answer."""
        return (
            not self._asked
            or self.cycle.response_complete
            or self.cycle.more_body
            or self.flow.write_paused
            or self.transport.is_closing()
        )

    @property
    def _asked(self) -> bool:
        """Whether a request has ever come, whose cycle there is then."""
        return bool(self.cycle)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the first request's time, and drop the socket that is one too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._sockets[self] = None
        self._time()
        if len(self._sockets) > SOCKETS_MAX:
            next((other for other in self._sockets if other.waits), self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        begins = self._asked and self.cycle.response_complete and not self._begun
        super().data_received(data)
        if begins:
            self._stop_timer()
        self._begun = self.waits
        self._time()

    def on_response_complete(self) -> None:
        """Give the client its time to read the answer and to ask again."""
        self._begun = False
        super().on_response_complete()
        self._time()

    def pause_writing(self) -> None:
        """Begin the time in which the client must read."""
        super().pause_writing()
        self._time()

    def resume_writing(self) -> None:
        """Go on with what was asked."""
        super().resume_writing()
        self._stop_timer()
        self._time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        self._sockets.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def _time(self) -> None:
        """Let the client's time run while the node waits for it, and only then."""
        if not self.waits:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def make_server(app: ASGIApp) -> HttpServer:
    """Make the server; `await server.serve(sockets=[…])` runs it until `should_exit` is set."""
    logging.getLogger("uvicorn.error").addFilter(_client_faults)
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
        ),
        sockets,
    )
