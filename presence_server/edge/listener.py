"""The client port: its connections, and the time limits of each."""

import asyncio
import logging
import socket
import ssl
from random import randrange
from typing import TYPE_CHECKING, Final

import anyio
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from presence_server.auth.identity import Authenticator, Identity, IdentityError
from presence_server.clock import Clock
from presence_server.config.cores import worker_count
from presence_server.config.settings import Settings
from presence_server.counters import Counts, Histogram
from presence_server.edge.connection import Connection
from presence_server.edge.frames import DEFLATE, Encodings
from presence_server.edge.gate import Gate
from presence_server.edge.overload import Overload
from presence_server.edge.pages import Pages
from presence_server.edge.pending import EXEMPT, Pending
from presence_server.edge.timeouts import Timeouts, Wheel
from presence_server.edge.tls_socket import TlsSocket
from presence_server.edge.turns import Turns
from presence_server.edge.upgrade_refusals import HandshakeError
from presence_server.errors import ListenError
from presence_server.hub.hub import Hub
from presence_server.protocol import codes
from presence_server.session.directory import Directory
from presence_server.sockets import CLIENT_BACKLOG, listen_for_clients
from presence_server.throttle.address import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

TRICKLE_MS: Final = 30_000
"""A message must be complete this long after its first byte."""
CLOSING_MS: Final = 5_000
"""A client must end its side this long after the close frame."""
READ_BYTES: Final = 32_768
"""Read from a socket at a time, and so the most that the node keeps of one that waits for its turn."""
ACCEPTS: Final = 8
"""Sockets accepted in one turn of the loop: a turn that is full of work must not accept a single one only."""
RETRY_AFTER_S: Final = 5
PACE_MS: Final = 2
"""Drain time for each connection, so that the other nodes are not stormed; half of `drain_ms` at most."""
STEP_MS: Final = 20
RECONNECT_MS: Final = 100
"""Clients that are told in one step come back within this: a client is away for about half of it, not half a drain."""

_websockets_log: Final = logging.getLogger("websockets.server")


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
        turns: Turns,
        overload: Overload,
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
        self.message_bytes = settings.limits.message_bytes
        self.encodings = Encodings()
        self.pages = Pages(demo=settings.server.demo and settings.auth.mode == "none")
        self.trickling: Timeouts[Connection] = Timeouts(TRICKLE_MS)
        self.bytes_in = 0
        self.bytes_out = 0
        self.handshakes: Counts[int] = Counts()
        """WebSocket handshakes by the status that they were answered with."""
        self.closes: Counts[str] = Counts()
        """Connections that ended, by close code; 1006: without one; other: a code of the client's own."""
        self.handshake_seconds = Histogram()
        """The durations from a connection's first byte to its welcome, s."""
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        """The buffer into which every transport reads."""
        self._settings = settings
        self.extensions = [DEFLATE] if settings.server.compression else None
        """The extensions that this server negotiates; None: it has none."""
        self._loop = asyncio.get_running_loop()
        self.turns = turns
        self.overload = overload
        self.pending = Pending(settings.limits.pending_per_ip, settings.limits.pending)
        self._doors: list[asyncio.Server] = []
        self._shaking: set[TlsSocket] = set()
        """Sockets whose TLS handshake is not done."""
        self._tls_context: ssl.SSLContext | None = None
        self._connections: set[Connection] = set()
        self._handshaking: Timeouts[Connection | TlsSocket] = Timeouts(settings.limits.handshake_ms)
        self._closing: Timeouts[Connection] = Timeouts(CLOSING_MS)
        self._wheel: Wheel[Connection] = Wheel(settings.presence.ping_ms)
        self._awaited: Timeouts[Connection] = Timeouts(settings.presence.ping_timeout_ms)
        self._all_gone = asyncio.Event()
        self._draining = False

    async def start(self) -> tuple[str, int]:
        """Begin to listen; return the address. Raises `ListenError` where it cannot be had."""
        settings = self._settings
        self._tls_context = self._tls()
        server = settings.server
        bound = await listen_for_clients(
            server.host,
            server.port,
            shared=worker_count(server) > 1,
            unsent_bytes=settings.limits.outbox_soft_bytes,
        )
        for sock in bound:
            await self._accept_from(sock)
        self.overload.start()
        host, port = bound[0].getsockname()[:2]
        return host, port

    async def _accept_from(self, sock: socket.socket) -> None:
        """Begin to accept."""
        # A loop accepts one socket of a listener in a turn (libuv 1.45 and later), or `backlog` (asyncio).
        copies = ACCEPTS - 1 if _accepts_one_a_turn(self._loop) else 0
        for listening in (sock, *(sock.dup() for _ in range(copies))):
            self._doors.append(
                await self._loop.create_server(self._new_socket, sock=listening, backlog=ACCEPTS)
            )
        # `create_server` has said how many at a time, and the kernel heard it too.
        sock.listen(CLIENT_BACKLOG)

    def _new_socket(self) -> Connection | TlsSocket:
        """Make the protocol of a socket that was accepted."""
        return Connection(self) if self._tls_context is None else TlsSocket(self, self._tls_context)

    def _tls(self) -> ssl.SSLContext | None:
        server = self._settings.server
        if not server.tls_cert:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # Without a password callback OpenSSL would ask for a passphrase on the terminal.
            context.load_cert_chain(server.tls_cert, server.tls_key, password=lambda: "")
        except OSError as exc:  # of files that were changed since they were checked
            raise ListenError(
                f"server.tls_cert: {server.tls_cert} and {server.tls_key} are no longer a certificate and its private "
                f"key: {exc.strerror or exc}"
            ) from None
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        return context

    def change_certificate(self, cert: str, key: str) -> None:
        """Show another certificate to those who come from now on. Raises `ssl.SSLError` or `OSError`."""
        if self._tls_context is not None and cert:
            self._tls_context.load_cert_chain(cert, key)

    # --- what a connection reports, in this order ---

    def new_protocol(self) -> ServerProtocol:
        """Make the library's end of a WebSocket whose handshake is done."""
        return ServerProtocol(state=OPEN, max_size=self.message_bytes, logger=_websockets_log)

    def peer(self, transport: asyncio.BaseTransport) -> tuple[Address | None, str]:
        """Return the address at the other end, and what its sockets are counted by until a client is known."""
        return self._peer(transport.get_extra_info("peername"))

    def _peer(self, peer: object) -> tuple[Address | None, str]:
        address = parse_address(peer[0]) if isinstance(peer, tuple) and peer else None
        return address, self._key(address)

    def _key(self, address: Address | None) -> str:
        addresses = self.gate.addresses
        return EXEMPT if address is not None and addresses.trusts(address) else addresses.key(address)

    def note_arrival(self, connection: Connection, transport: asyncio.Transport) -> None:
        """Begin a connection's handshake; drop it where even a refusal would be too much."""
        self._connections.add(connection)
        if self.sockets > self._settings.server.max_connections + 2 * self._settings.limits.pending:
            connection.abort()
            return
        soft_bytes = self._settings.limits.outbox_soft_bytes
        transport.set_write_buffer_limits(high=soft_bytes, low=soft_bytes // 4)
        connection.arrived_s = self._loop.time()
        self._handshaking.start(connection, self.clock.now_ms())
        self.pending.add_socket(connection, connection.key)

    def note_tls_arrival(self, sock: TlsSocket) -> None:
        """Begin a TLS handshake. It stays pending while it waits for its turn: so an address has a bound there."""
        self._shaking.add(sock)
        self._handshaking.start(sock, self.clock.now_ms())
        self.pending.add_socket(sock, sock.key)

    def forget_tls(self, sock: TlsSocket) -> None:
        """Forget a TLS handshake that is done or has failed."""
        self._shaking.discard(sock)
        self._handshaking.stop(sock)
        self.pending.remove_socket(sock)
        self._note_empty()

    def recount(self, connection: Connection, address: Address | None) -> None:
        """Count a connection by the address that its proxy has told."""
        connection.key = self._key(address)
        if connection in self.pending:
            self.pending.remove_socket(connection)
            self.pending.add_socket(connection, connection.key)

    def note_waiting(self, connection: Connection) -> None:
        """Note that a connection waits for this node, and not the other way round."""
        self.pending.remove_socket(connection)

    def note_pending(self, connection: Connection) -> None:
        """Note that this node waits for a connection again, if it is still to say or to end something."""
        if connection in self._handshaking or (connection.ping_slot is None and connection in self._closing):
            self.pending.add_socket(connection, connection.key)

    def note_request(self, connection: Connection) -> None:
        """Count a connection no more among those whose request is not complete."""
        self.pending.remove_socket(connection)

    def note_answer(self, connection: Connection) -> None:
        """End a handshake's time: whatever had to be asked has been, and its answer is sent."""
        self._handshaking.stop(connection)

    def check_room_for_one(self) -> None:
        """Raise `HandshakeError` with 503 when draining, full or overloaded."""
        if self._draining:
            raise HandshakeError(
                503, "this node is shutting down", [("Retry-After", "1")], close=codes.DRAINING
            )
        if len(self.directory) >= self._settings.server.max_connections:
            raise HandshakeError(503, "this node is full", [("Retry-After", str(RETRY_AFTER_S))])
        if self.overload.sheds_handshake():
            raise HandshakeError(503, "this node is overloaded", [("Retry-After", str(RETRY_AFTER_S))])

    def welcome(self, identity: Identity | IdentityError) -> Identity:
        """Return the identity of a client that may connect. Raises `HandshakeError` where it may not."""
        if isinstance(identity, IdentityError):
            headers = {401: [("WWW-Authenticate", "Bearer")], 503: [("Retry-After", "1")]}
            raise HandshakeError(identity.status, identity.detail, headers.get(identity.status, []))
        left_ms = self.directory.banned_until(identity.user) - self.clock.wall_ms()
        if left_ms > 0:
            raise HandshakeError(403, "this user is banned", [("Retry-After", str(-(-left_ms // 1_000)))])
        return identity

    def note_session(self, connection: Connection) -> None:
        """Begin to ping a connection."""
        self.handshake_seconds.observe(self._loop.time() - connection.arrived_s)
        connection.ping_slot = self._wheel.place_item(connection)

    def note_session_end(self, connection: Connection) -> None:
        """Stop expecting anything of a connection but its end."""
        if connection.ping_slot is not None:
            self._wheel.remove_item(connection, connection.ping_slot)
        self._awaited.stop(connection)
        self.trickling.stop(connection)

    def note_closing(self, connection: Connection) -> None:
        """Give a connection a while to end its side."""
        self._closing.start(connection, self.clock.now_ms())
        self.note_pending(connection)

    def forget_connection(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        self._connections.discard(connection)
        self._handshaking.stop(connection)
        self._closing.stop(connection)
        self.pending.remove_socket(connection)
        self._note_empty()

    def _note_empty(self) -> None:
        if not self.sockets:
            self._all_gone.set()

    # --- what the node asks ---

    def sweep_timeouts(self, now_ms: int) -> None:
        """Look at every deadline; called every `SLICE_MS`."""
        for connection in (*self._handshaking.take_timed_out(now_ms), *self._closing.take_timed_out(now_ms)):
            connection.abort()
        for connection in self.trickling.take_timed_out(now_ms):
            connection.close_trickling()
        for connection in self._awaited.take_timed_out(now_ms):
            connection.close_unless_alive()
        for connection in self._wheel.turn(now_ms):
            if connection.ping(now_ms):
                self._awaited.stop(connection)
                self._awaited.start(connection, now_ms)

    @property
    def sockets(self) -> int:
        """The number of sockets, those in the middle of a handshake or of closing too."""
        return len(self._connections) + len(self._shaking)

    async def drain(self, drain_ms: int) -> None:
        """Refuse new connections and close the others, paced over half of `drain_ms`, told when to come back.

        Returns when all sockets are closed, or `drain_ms` is over; they are dropped then.
        """
        self._draining = True
        pace_ms = min(drain_ms // 2, PACE_MS * len(self.directory))
        with anyio.move_on_after(drain_ms / 1000):
            await self._close_paced(pace_ms)
            while self.sockets:
                self._all_gone = asyncio.Event()
                await self._all_gone.wait()

    async def _close_paced(self, pace_ms: int) -> None:
        connections = list(self._connections)
        steps = max(1, pace_ms // STEP_MS)
        for step in range(steps):
            for connection in connections[step::steps]:
                reconnect_ms = randrange(min(pace_ms, RECONNECT_MS) + 1)  # noqa: S311 - spreads load
                connection.close(codes.DRAINING, reconnect_ms=reconnect_ms)
            if step + 1 < steps:
                await anyio.sleep(STEP_MS / 1000)

    def stop(self) -> None:
        """Stop listening and drop what is left."""
        self.overload.stop()
        for door in self._doors:
            door.close()
        for connection in list(self._connections):
            connection.abort()
        for sock in list(self._shaking):
            sock.abort()


def _accepts_one_a_turn(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop accepts one socket of a listener in a turn, as uvloop's does."""
    return type(loop).__module__.partition(".")[0] == "uvloop"
