"""The unsent bytes of a whole node, and the connections that are closed when they are too many.

How much a socket has taken is known to its transport alone, and to ask ten thousand of them with each write would
cost more than the write. So what is written is added up, which is never too little, and only when that passes the
limit every connection is asked. Connections are closed from fifteen sixteenths of the limit down to seven eighths, so
that at least a sixteenth of it is written from one time to the next.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from presence_server.hub.outbox import Outbox
    from presence_server.hub.ports import Wire

CLOSE_FROM_RATIO: Final = 15 / 16
"""The part of the limit from which on connections are closed."""
CLOSE_TO_RATIO: Final = 7 / 8
"""The part of the limit down to which they are closed."""


class Total:
    """The bound on what waits for all connections, `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.outboxes: set[Outbox] = set()
        """The outboxes of all open connections."""
        self._bytes_max = bytes_max
        self.estimated_bytes = 0
        """Never less than what waits: what is written or held is added; measured where that passes the bound."""
        self._closed: dict[Wire, None] = {}

    @property
    def may_be_over(self) -> bool:
        """Whether connections must be asked how much waits for them."""
        return self.estimated_bytes > self._bytes_max

    def note_closed(self, outbox: "Outbox") -> None:
        """Note that a connection is being closed: what its wire has not sent is there until it is gone."""
        self.outboxes.discard(outbox)
        if outbox.wire is not None and outbox.wire.unsent_bytes:
            self._closed[outbox.wire] = None

    def forget_closed(self) -> None:
        """Forget the connections that are gone, or have nothing unsent any more."""
        for wire in list(self._closed):
            if not wire.unsent_bytes:
                del self._closed[wire]

    def measure(self) -> int:
        """Ask every connection, and return what waits for them in all."""
        return sum(outbox.unsent_bytes for outbox in self.outboxes) + sum(
            wire.unsent_bytes for wire in self._closed
        )

    def take_excess(self) -> "list[Outbox]":
        """Return the connections to close, those with most unsent first; drop those that are being closed before."""
        if not self.may_be_over:
            return []
        self.estimated_bytes = self.measure()
        most = int(self._bytes_max * CLOSE_FROM_RATIO)
        if self.estimated_bytes <= most:
            return []
        enough = int(self._bytes_max * CLOSE_TO_RATIO)
        for wire in sorted(self._closed, key=lambda wire: wire.unsent_bytes, reverse=True):
            if self.estimated_bytes <= enough:
                break
            self.estimated_bytes -= wire.unsent_bytes
            wire.abort()
        excess: list[Outbox] = []
        if self.estimated_bytes > most:
            for outbox in sorted(self.outboxes, key=lambda outbox: outbox.unsent_bytes, reverse=True):
                if self.estimated_bytes <= enough:
                    break
                self.estimated_bytes -= outbox.unsent_bytes
                excess.append(outbox)
        return excess
