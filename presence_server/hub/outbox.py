"""What one connection is to be written, and what happens when it does not read."""

from typing import TYPE_CHECKING

from presence_server.protocol.messages import Message

if TYPE_CHECKING:
    from presence_server.hub.channel import Watcher
    from presence_server.hub.hub import Hub
    from presence_server.hub.ports import Encoding, Wire


class Outbox:
    """Gathers a tick's bytes for one connection and writes them at once.

    A connection is *behind* while more than the soft limit is unsent. It is then told nothing of rosters,
    which are state and are told anew when it has caught up; signals are dropped; messages and replies wait,
    up to the hard limit, in bytes or in time, at which it is closed as too slow.
    """

    __slots__ = ("behind", "chunks", "encoding", "held_bytes", "hub", "lagging", "queued_bytes", "wire")

    def __init__(self, hub: "Hub", encoding: "Encoding", wire: "Wire") -> None:
        self.hub = hub
        self.encoding = encoding
        self.wire: Wire | None = wire
        self.chunks: list[bytes] = []
        self.behind = False
        self.queued_bytes = 0
        """What was written while behind."""
        self.held_bytes = 0
        """What channels hold back until the connection has caught up."""
        self.lagging: list[Watcher] | None = None

    def send(self, message: Message) -> None:
        """Write one message with this tick."""
        self.append(self.encoding.encode(message))

    def append(self, data: bytes) -> None:
        """Write encoded bytes with this tick."""
        if self.wire is None:
            return
        if not self.chunks:
            self.hub.dirty.append(self)
            self.hub.wake(0)
        self.chunks.append(data)
        if self.behind:
            self.queued_bytes += len(data)
            self.check()

    def check(self) -> None:
        """Have the connection closed if more waits for it than may."""
        if self.queued_bytes + self.held_bytes > self.hub.hard_bytes:
            self.hub.too_slow(self)

    def flush(self) -> None:
        """Write what this tick has gathered: the only place that does."""
        chunks = self.chunks
        if self.wire is None or not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        if data:
            self.wire.write(data)

    def fell_behind(self) -> None:
        """Note that more than the soft limit is unsent."""
        if not self.behind and self.wire is not None:
            self.behind = True
            self.queued_bytes = 0
            self.hub.fell_behind(self)

    def caught_up(self) -> None:
        """Note that nearly all has been sent: the rooms that were not told are, one a tick."""
        if self.behind:
            self.behind = False
            self.queued_bytes = 0
            self.hub.caught_up(self)

    def close(self) -> None:
        """Forget everything; nothing is written any more."""
        self.hub.forget(self)
        self.wire = None
        self.chunks.clear()
        self.lagging = None
