"""TLS on the client port: sockets are accepted here, so that they count before their handshake is done.

The loop's own server would tell of a socket only after its TLS handshake: silent ones would be seen by nobody.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from presence_server.logs import FloodLog

if TYPE_CHECKING:
    from presence_server.edge.connection import Connection

ACCEPT_S: Final = 0.001
"""How long sockets are accepted in one turn of the loop."""
NO_FILES_PAUSE_S: Final = 1.0
"""Nothing is accepted for so long after the process had no file left for a socket."""

_failed = FloodLog(__name__, "cannot accept", "error")


class TlsHandshake:
    """A socket until its TLS handshake is done, and its connection takes over."""

    def __init__(self, sock: socket.socket, peer: object) -> None:
        self.peer = peer
        """What `accept` said of the other end."""
        self._socket = sock

    def abort(self) -> None:
        """End the handshake at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client has ended it already
            return

    async def run(
        self, context: ssl.SSLContext, new_protocol: Callable[[], "Connection"], timeout_s: float
    ) -> None:
        """Shake hands; the protocol has its transport when this is over, or never."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                new_protocol, self._socket, ssl=context, ssl_handshake_timeout=timeout_s
            )
        except (
            OSError,
            ssl.SSLError,
        ):  # not TLS, too late, or the client went away: nobody is there to be told
            self._socket.close()


class TlsDoor:
    """Accepts sockets for one listening one. `came` and `gone` are told of each that shakes hands."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        new_protocol: Callable[[], "Connection"],
        timeout_s: float,
        *,
        came: Callable[[TlsHandshake], None],
        gone: Callable[[TlsHandshake], None],
    ) -> None:
        self._listening = listening
        self._context = context
        self._new_protocol = new_protocol
        self._timeout_s = timeout_s
        self._came = came
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._open()

    def close(self) -> None:
        """Accept nothing more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()

    def _open(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        until_s = perf_counter() + ACCEPT_S
        while perf_counter() < until_s:
            try:
                sock, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # no more files
                _failed.note(error=str(exc))
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(NO_FILES_PAUSE_S, self._open)
                return
            sock.setblocking(False)
            self._begin(TlsHandshake(sock, peer))

    def _begin(self, handshake: TlsHandshake) -> None:
        self._came(handshake)
        task = self._loop.create_task(handshake.run(self._context, self._new_protocol, self._timeout_s))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._gone(handshake)

        task.add_done_callback(done)
