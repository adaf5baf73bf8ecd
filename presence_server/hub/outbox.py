"""The bytes that wait to be written to one connection, and what happens when it does not read."""

from typing import TYPE_CHECKING, Final

from presence_server.protocol.messages import Message

if TYPE_CHECKING:
    from presence_server.hub.channel import Watcher
    from presence_server.hub.hub import Hub
    from presence_server.hub.ports import Encoding, Wire

REQUEST_BYTES: Final = 512
"""The assumed size of a waiting request beside its content."""


class Outbox:
    """Gathers a tick's bytes for one connection and writes them at once.

    A connection is *behind* while more than the soft limit waits for it: unsent in its wire, gathered for it in this
    tick, or kept of its own requests. It is not read from then. It is sent nothing of rosters, which are state and are
    sent whole when it has caught up; signals are dropped; messages and replies wait, up to the hard limit, in bytes or
    in time, at which it is closed as too slow.

    Replies count when they are gathered, not when they are written: what one turn asks for is bounded too.
    What a tick had no time to write is *carried* to a later one, before anything that is gathered after it.
    """

    __slots__ = (
        "answered_bytes",
        "behind",
        "carried",
        "carried_bytes",
        "chunks",
        "encoding",
        "held_bytes",
        "hub",
        "lagging",
        "queued_bytes",
        "requests_bytes",
        "wire",
    )

    def __init__(self, hub: "Hub", encoding: "Encoding", wire: "Wire") -> None:
        self.hub = hub
        self.encoding = encoding
        self.wire: Wire | None = wire
        self.chunks: list[bytes] = []
        """Gathered since the last tick."""
        self.carried: list[bytes] = []
        """Gathered before, and not written for want of time."""
        self.carried_bytes = 0
        self.behind = False
        self.queued_bytes = 0
        """Replies gathered in this tick, or since the connection fell behind."""
        self.held_bytes = 0
        """The bytes that channels hold back until the connection has caught up."""
        self.requests_bytes = 0
        """Requests of the connection that wait for a store or a limiter."""
        self.answered_bytes = 0
        """The weight of the rosters that the connection asked for and has not been charged for."""
        self.lagging: list[Watcher] | None = None

    def send_message(self, message: Message) -> None:
        """Write one message with this tick."""
        self.append_bytes(self.encoding.encode(message))

    def send_roster(self, message: Message) -> None:
        """Write a roster that the client asked for with this tick; its rate is charged for it."""
        data = self.encoding.encode(message)
        self.answered_bytes += self.encoding.weigh(message, data)
        self.append_bytes(data)

    def append_bytes(self, data: bytes) -> None:
        """Write encoded bytes with this tick."""
        if self.wire is None:
            return
        if not self.chunks:
            self.hub.dirty.append(self)
            self.hub.wake(0)
        self.chunks.append(data)
        self.queued_bytes += len(data)
        if self.queued_bytes > self.hub.soft_bytes:
            self.mark_behind()
            self._check_hard_limit()

    def count_held(self, size: int) -> None:
        """Count a message that a channel holds back."""
        self.held_bytes += size
        self.hub.count_unsent(size)
        self._check_hard_limit()

    def keep_request(self, size: int) -> None:
        """Count a request that waits."""
        self.requests_bytes += size
        self.hub.count_unsent(size)
        if self.requests_bytes > self.hub.soft_bytes:
            self.mark_behind()
            self._check_hard_limit()

    def drop_request(self, size: int) -> None:
        """Count a request that waits no longer."""
        self.requests_bytes -= size
        self.check_drained()

    @property
    def is_over(self) -> bool:
        """Whether more waits for the connection than may."""
        return self.queued_bytes + self.held_bytes + self.requests_bytes > self.hub.hard_bytes

    @property
    def unsent_bytes(self) -> int:
        """All that waits for the connection, what its wire could not send included."""
        wire_bytes = 0 if self.wire is None else self.wire.unsent_bytes
        gathered_bytes = self.carried_bytes + sum(map(len, self.chunks))
        return wire_bytes + gathered_bytes + self.held_bytes + self.requests_bytes

    def flush(self) -> int:
        """Write what has been gathered: the only place that does. Return how much that was."""
        chunks = self.chunks
        if self.carried_bytes:
            chunks = [*self.carried, *chunks]
            self.carried.clear()
            self.carried_bytes = 0
        if self.wire is None or not chunks:
            return 0
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks.clear()
        if data:
            self.wire.write(data)
        if self.behind:
            self.check_drained()
        else:
            self.queued_bytes = 0
        return len(data)

    def carry(self) -> int:
        """Keep what this tick has gathered for a later one. Return how much that is."""
        if self.wire is None:
            return 0
        size = sum(map(len, self.chunks))
        if size:
            self.carried += self.chunks
            self.carried_bytes += size
        self.chunks.clear()
        if self.carried_bytes > self.hub.soft_bytes:
            self.mark_behind()
        return size

    def mark_behind(self) -> None:
        """Note that more than the soft limit waits."""
        if not self.behind and self.wire is not None:
            self.behind = True
            self.hub.note_behind(self)

    def check_drained(self) -> None:
        """Note that less waits than before. A connection that has caught up is sent its rooms, one a tick, and read."""
        wire = self.wire
        if not self.behind or wire is None or wire.congested or self.chunks or self.carried_bytes:
            return
        self.queued_bytes = 0
        if self.requests_bytes <= self.hub.soft_bytes:
            self.behind = False
            self.hub.note_caught_up(self)
            wire.resume_reading()

    def detach_wire(self) -> None:
        """Forget everything; nothing is written any more."""
        self.hub.forget_outbox(self)
        self.wire = None
        self.chunks.clear()
        self.carried.clear()
        self.carried_bytes = 0
        self.lagging = None

    def _check_hard_limit(self) -> None:
        if self.is_over:
            self.hub.close_too_slow(self)
