"""A client's connection to a node, both ends of it, without a socket: frames take their time, or never arrive."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from presence_server.auth.identity import Identity
from presence_server.errors import RequestError
from presence_server.protocol import codes
from presence_server.protocol.codec import JSON
from presence_server.protocol.codes import CloseCode, Ending
from presence_server.protocol.messages import ClientMessage, Message, ServerMessage

if TYPE_CHECKING:
    from presence_server.hub.outbox import Outbox
    from presence_server.session.session import Session
    from tests.simulation.nodes import SimulatedNode

_LENGTH_BYTES: Final = 4
_decode = msgspec.json.Decoder(ServerMessage).decode


class Frames:
    """The encoding of every simulated connection: JSON messages, each behind its length."""

    def encode(self, message: Message) -> bytes:
        """Encode and frame one message."""
        data = JSON.encode(message)
        return len(data).to_bytes(_LENGTH_BYTES, "big") + data

    def weigh(self, message: Message, data: bytes) -> int:
        """Return what a message weighs."""
        del data
        return JSON.weigh(message)


@lru_cache(maxsize=64)
def split(data: bytes) -> tuple[ServerMessage, ...]:
    """Decode everything in `data`, which holds whole frames; watchers of a room are mostly written the same bytes."""
    messages: list[ServerMessage] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[start - _LENGTH_BYTES : start], "big")
        messages.append(_decode(data[start:at]))
    return tuple(messages)


class Peer(Protocol):
    """What a client is told of its connection; called in the world's own context, never in a node's."""

    def received(self, messages: tuple[ServerMessage, ...]) -> None:
        """Take what one write of the node brought. Others may be given the same objects: they stay as they are."""

    def closed(self, code: int) -> None:
        """Take note of the end; called once, after which nothing comes. 1006: there was no close frame."""


class Socket:
    """The client's end. What either end sends takes `World.client_delay_s` and arrives in order.

    While the node is frozen, what the client sends waits in the node's kernel. A node that is dead or does not listen
    yet answers a connection with `closed(1006)`, and a banned user's with `closed(4004)`.
    """

    def __init__(self, node: "SimulatedNode", identity: Identity, resume: str | None, peer: Peer) -> None:
        self.node = node
        self._peer: Peer | None = peer
        self._vanished = False
        self._unread: list[bytes] | None = None
        """What has come while the client does not read; None: it does."""
        self._is_probed = False
        """Whether a ping is among that."""
        self._arrives_s = 0.0
        self._end = NodeEnd(node, self)
        self._transmit(partial(self._end.upgrade, identity, resume))

    @property
    def is_open(self) -> bool:
        """Whether the client has neither ended the connection nor been told of its end."""
        return self._peer is not None

    @property
    def session(self) -> "Session | None":
        """Return the node's session of this connection, for checks: what the node knows, not what the client does."""
        return self._end.session

    def send(self, *messages: ClientMessage) -> None:
        """Send messages; on a connection that has ended they are lost."""
        if self._peer is not None:
            self._transmit(partial(self._end.receive, tuple(map(JSON.encode, messages))))

    def close(self, code: int = codes.NORMAL.code) -> None:
        """Close as a client does that means it; it is told nothing more."""
        if self._peer is not None:
            self._peer = None
            self._transmit(partial(self._end.end, codes.ending_by_client(code)))

    def reset(self) -> None:
        """End without a close frame, and the node notices: the client's process was killed. It is told nothing more."""
        if self._peer is not None:
            self._peer = None
            self._transmit(partial(self._end.end, Ending.LOST))

    def vanish(self) -> None:
        """Lose the network without a word. The node notices by its pings; the client is told nothing more."""
        self._peer = None
        self._vanished = True
        self._end.vanished = True

    @property
    def is_read(self) -> bool:
        """Whether the client reads what it is sent."""
        return self._unread is None

    def doze(self) -> None:
        """Read nothing from now on."""
        if self._unread is None:
            self._unread = []

    def wake(self) -> None:
        """Read again, first what has come meanwhile."""
        unread, self._unread = self._unread, None
        for data in unread or ():
            self.arrived(data, None)
        if unread is not None:
            self._transmit(self._end.sent)
        if self._is_probed:
            self._is_probed = False
            self.probed()

    def probed(self) -> None:
        """Answer a ping, as a client's library does by itself as soon as it reads it."""
        if self._peer is None:
            return
        if self._unread is None:
            self._transmit(self._end.answer_probe)
        else:
            self._is_probed = True

    def node_died(self) -> None:
        """Hear that the node's process is gone: its kernel resets the connection."""
        self.arrived(None, codes.ABNORMAL.code)

    def arrived(self, data: bytes | None, code: int | None) -> None:
        """Take what the node sent: data, or the end."""
        peer = self._peer
        if peer is None:
            return
        if data is not None and self._unread is not None:
            self._unread.append(data)
        elif data is not None:
            peer.received(split(data))
        elif code is not None:
            self.wake()
            self._peer = None
            peer.closed(code)

    def _transmit(self, arrive: Callable[[], None]) -> None:
        node = self.node
        if self._vanished:
            return
        if node.alive:
            self._arrives_s = node.later(node.world.client_delay_s(), arrive, self._arrives_s)
        else:
            node.world.later(node.world.client_delay_s(), self.node_died)


class NodeEnd:
    """The node's end: what the edge does around a session, without frames of its own. It is the session's `Wire`."""

    def __init__(self, node: "SimulatedNode", socket: Socket) -> None:
        self.congested = False
        self.unsent_bytes = 0
        self.session: Session | None = None
        self.vanished = False
        """Whether the client's network is gone, which the node does not know."""
        self._pinged_ms: int | None = None
        """When a client that has vanished is pinged next, by the node's monotonic clock."""
        self._node = node
        self._socket = socket
        self._outbox: Outbox | None = None
        self._held: list[bytes] | None = []
        """What came before the session was opened, or while the node does not read."""
        self._arrives_s = 0.0

    # --- what arrives ---

    def upgrade(self, identity: Identity, resume: str | None) -> None:
        """Let the client in, as the edge does once the handshake is over."""
        node = self._node
        if not node.ready:
            self._transmit(None, codes.ABNORMAL.code)
        elif node.core.directory.banned_until(identity.user):
            self._transmit(None, codes.FORBIDDEN.code)
        else:
            self._outbox = node.core.hub.new_outbox(node.frames, self)
            node.ends[self] = None
            node.core.directory.open_session(identity, resume, self._outbox, self._welcomed)

    def receive(self, payloads: tuple[bytes, ...]) -> None:
        """Take messages of the client."""
        for payload in payloads:
            if self._outbox is None:
                return
            if self._held is not None:
                self._held.append(payload)
            elif self.session is not None:
                try:
                    message = JSON.decode(payload)
                except RequestError as error:
                    self.session.refuse_unread(error)
                else:
                    self.session.receive_message(message)

    def end(self, how: Ending) -> None:
        """End the conversation: what was gathered is written, and nothing more."""
        outbox, self._outbox = self._outbox, None
        session, self.session = self.session, None
        self._node.ends.pop(self, None)
        if outbox is not None:
            outbox.flush()
            outbox.detach_wire()
        if session is not None:
            session.leave_all_rooms(how)

    def sweep(self, now_ms: int) -> None:
        """Ping, and close a connection that does not answer."""
        if not self.vanished:
            return
        presence = self._node.presence
        if self._pinged_ms is None:
            self._pinged_ms = now_ms + self._node.world.random.randint(0, presence.ping_ms)
        elif now_ms - self._pinged_ms >= presence.ping_timeout_ms:
            self.close(codes.NO_PONG)

    def _welcomed(self, session: "Session") -> None:
        if self._outbox is None:
            session.leave_all_rooms(Ending.LOST)
            return
        self.session = session
        held, self._held = self._held, None
        self.receive(tuple(held or ()))

    # --- what the node does ---

    def write(self, data: bytes) -> None:
        """Send what a tick has gathered; from a client that does not read, nothing more is read either."""
        self._transmit(data, None)
        if self._socket.is_read or self._outbox is None:
            return
        self.unsent_bytes += len(data)
        if self.unsent_bytes > self._node.core.hub.soft_bytes and not self.congested:
            self.congested = True
            self._outbox.mark_behind()
            self._held = self._held or []

    def sent(self) -> None:
        """Take note that the client has read everything."""
        self.unsent_bytes, self.congested = 0, False
        if self._outbox is not None:
            self._outbox.check_drained()

    def resume_reading(self) -> None:
        """Read on, first what has come meanwhile."""
        if self.session is not None:
            held, self._held = self._held, None
            self.receive(tuple(held or ()))

    def close(self, code: CloseCode) -> None:
        """Say `bye` and close; the memberships end as the code says."""
        if self.session is not None:
            self.session.say_bye(code)
            self.end(code.ending)
            self._transmit(None, code.code)

    def probe(self) -> None:
        """Ping the client."""
        if not self.vanished:
            world = self._node.world
            self._arrives_s = world.later(world.client_delay_s(), self._socket.probed, self._arrives_s)

    def answer_probe(self) -> None:
        """Take the client's pong."""
        if self.session is not None:
            self.session.answer_probe()

    def abort(self) -> None:
        """Drop the connection."""
        self.end(Ending.LOST)
        self._transmit(None, codes.ABNORMAL.code)

    def died(self) -> None:
        """Be reset by the kernel of a process that was killed."""
        self._transmit(None, codes.ABNORMAL.code)

    def _transmit(self, data: bytes | None, code: int | None) -> None:
        if not self.vanished:
            world = self._node.world
            arrive = partial(self._socket.arrived, data, code)
            self._arrives_s = world.later(world.client_delay_s(), arrive, self._arrives_s)
