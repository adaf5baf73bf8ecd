"""The client port: who is connected, and what each connection may take its time with."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from random import randrange
from typing import Final

import anyio
from websockets.server import ServerProtocol

from presence_server.auth.identity import Authenticator, Identity, IdentityError
from presence_server.clock import Clock
from presence_server.config.settings import Settings
from presence_server.edge.connection import Connection
from presence_server.edge.deadlines import Deadlines, Wheel
from presence_server.edge.frames import DEFLATE, Encodings
from presence_server.edge.gate import Gate
from presence_server.edge.handshake import HandshakeError
from presence_server.edge.pages import Pages
from presence_server.hub.hub import Hub
from presence_server.measure import Counts, Histogram
from presence_server.protocol import codes
from presence_server.session.directory import Directory

BACKLOG: Final = 4_096
"""The kernel's queue of connections not yet accepted; asyncio's 100 throttles a storm of them."""
TRICKLE_MS: Final = 30_000
"""A message must be complete this long after its first byte."""
CLOSING_MS: Final = 5_000
"""A client must end its side this long after the close frame."""
HANDSHAKES_MAX: Final = 1_024
"""Sockets beyond `max_connections` that may be in the middle of a handshake or of closing."""
RETRY_AFTER_S: Final = 5
PACE_MS: Final = 2
"""Drain time for each connection, so that the other nodes are not stormed; half of `drain_ms` at most."""
STEP_MS: Final = 20


class Listener:
    """Every socket of the client port."""

    def __init__(
        self,
        settings: Settings,
        *,
        hub: Hub,
        directory: Directory,
        authenticator: Authenticator,
        gate: Gate,
        clock: Clock,
    ) -> None:
        self.hub = hub
        self.directory = directory
        self.authenticator = authenticator
        self.gate = gate
        self.clock = clock
        self.origins: Sequence[str] = settings.server.origins
        self.same_origin = settings.auth.mode != "none"
        """Whether pages of other origins are refused where none is named."""
        self.message_items = settings.limits.message_items
        self.encodings = Encodings()
        self.pages = Pages(demo=settings.server.demo and settings.auth.mode == "none")
        self.trickling: Deadlines[Connection] = Deadlines(TRICKLE_MS)
        self.bytes_in = 0
        self.bytes_out = 0
        self.handshakes: Counts[int] = Counts()
        """WebSocket handshakes by the status that they were answered with."""
        self.closes: Counts[str] = Counts()
        """Connections that ended, by close code; 1006: without one; other: a code of the client's own."""
        self.handshake_seconds = Histogram()
        """From a connection's first byte to its welcome, s."""
        self._settings = settings
        self._extensions = [DEFLATE] if settings.server.compression else None
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._tls_context: ssl.SSLContext | None = None
        self._connections: set[Connection] = set()
        self._handshaking: Deadlines[Connection] = Deadlines(settings.limits.handshake_ms)
        self._closing: Deadlines[Connection] = Deadlines(CLOSING_MS)
        self._wheel: Wheel[Connection] = Wheel(settings.presence.ping_ms)
        self._awaited: Deadlines[Connection] = Deadlines(settings.presence.ping_timeout_ms)
        self._all_gone = asyncio.Event()
        self._draining = False

    async def start(self) -> tuple[str, int]:
        """Begin to listen; return the address. Raises `OSError` where it cannot be had."""
        settings = self._settings
        self._server = await self._loop.create_server(
            lambda: Connection(self),
            settings.server.host,
            settings.server.port,
            backlog=BACKLOG,
            ssl=self._tls(),
            ssl_handshake_timeout=settings.limits.handshake_ms / 1000 if settings.server.tls_cert else None,
        )
        # Accepted sockets inherit it: what the kernel has not sent stays here, where it can be conflated.
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            for listening in self._server.sockets:
                listening.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, settings.limits.outbox_soft_bytes
                )
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def _tls(self) -> ssl.SSLContext | None:
        server = self._settings.server
        if not server.tls_cert:
            return None
        self._tls_context = context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(server.tls_cert, server.tls_key)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def change_certificate(self, cert: str, key: str) -> None:
        """Show another certificate to those who come from now on. Raises `ssl.SSLError` or `OSError`."""
        if self._tls_context is not None and cert:
            self._tls_context.load_cert_chain(cert, key)

    # --- what a connection reports, in this order ---

    def new_protocol(self) -> ServerProtocol:
        """Make the WebSocket protocol of a new connection."""
        return ServerProtocol(extensions=self._extensions, max_size=self._settings.limits.message_bytes)

    def arrived(self, connection: Connection, transport: asyncio.Transport) -> None:
        """Begin a connection's handshake; drop it where even a refusal would be too much."""
        self._connections.add(connection)
        if len(self._connections) > self._settings.server.max_connections + HANDSHAKES_MAX:
            connection.abort()
            return
        soft_bytes = self._settings.limits.outbox_soft_bytes
        transport.set_write_buffer_limits(high=soft_bytes, low=soft_bytes // 4)
        connection.arrived_s = self._loop.time()
        self._handshaking.start(connection, self.clock.now_ms())

    def answered(self, connection: Connection) -> None:
        """End a handshake's time: its request is complete."""
        self._handshaking.stop(connection)

    def check_room_for_one(self) -> None:
        """Raise `HandshakeError` with 503 when draining or full."""
        if self._draining:
            raise HandshakeError(503, "this node is shutting down", [("Retry-After", "1")])
        if len(self.directory) >= self._settings.server.max_connections:
            raise HandshakeError(503, "this node is full", [("Retry-After", str(RETRY_AFTER_S))])

    def welcome(self, identity: Identity | IdentityError) -> Identity:
        """Return who may come in. Raises `HandshakeError` with why not."""
        if isinstance(identity, IdentityError):
            headers = {401: [("WWW-Authenticate", "Bearer")], 503: [("Retry-After", "1")]}
            raise HandshakeError(identity.status, identity.detail, headers.get(identity.status, []))
        left_ms = self.directory.banned_until(identity.user) - self.clock.wall_ms()
        if left_ms > 0:
            raise HandshakeError(403, "this user is banned", [("Retry-After", str(-(-left_ms // 1_000)))])
        return identity

    def opened(self, connection: Connection) -> None:
        """Begin to ping a connection."""
        self.handshake_seconds.observe(self._loop.time() - connection.arrived_s)
        connection.place = self._wheel.add(connection)

    def ended(self, connection: Connection) -> None:
        """Stop expecting anything of a connection but its end."""
        self._wheel.remove(connection, connection.place)
        self._awaited.stop(connection)
        self.trickling.stop(connection)

    def closing(self, connection: Connection) -> None:
        """Give a connection a while to end its side."""
        self._closing.start(connection, self.clock.now_ms())

    def gone(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        self._connections.discard(connection)
        self._handshaking.stop(connection)
        self._closing.stop(connection)
        if not self._connections:
            self._all_gone.set()

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Call once this turn of the loop is over."""
        self._loop.call_soon(callback, *args)

    # --- what the node asks ---

    def sweep(self, now_ms: int) -> None:
        """Look at every deadline; called every `SLICE_MS`."""
        for connection in (*self._handshaking.take_due(now_ms), *self._closing.take_due(now_ms)):
            connection.abort()
        for connection in self.trickling.take_due(now_ms):
            connection.trickled()
        for connection in self._awaited.take_due(now_ms):
            connection.judge()
        for connection in self._wheel.turn(now_ms):
            if connection.ping(now_ms):
                self._awaited.stop(connection)
                self._awaited.start(connection, now_ms)

    @property
    def draining(self) -> bool:
        """Whether this node is shutting down."""
        return self._draining

    @property
    def sockets(self) -> int:
        """How many sockets there are, those in the middle of a handshake or of closing too."""
        return len(self._connections)

    async def drain(self, drain_ms: int) -> None:
        """Refuse new connections and close the others, paced over half of `drain_ms`, told when to come back.

        Returns when all sockets are closed, or `drain_ms` is over; they are dropped then.
        """
        self._draining = True
        pace_ms = min(drain_ms // 2, PACE_MS * len(self.directory))
        with anyio.move_on_after(drain_ms / 1000):
            await self._close_paced(pace_ms)
            while self._connections:
                self._all_gone = asyncio.Event()
                await self._all_gone.wait()

    async def _close_paced(self, pace_ms: int) -> None:
        connections = list(self._connections)
        steps = max(1, pace_ms // STEP_MS)
        for step in range(steps):
            for connection in connections[step::steps]:
                connection.close(codes.DRAINING, reconnect_ms=randrange(pace_ms + 1))  # noqa: S311 - spreads load
            if step + 1 < steps:
                await anyio.sleep(STEP_MS / 1000)

    def stop(self) -> None:
        """Stop listening and drop what is left."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
