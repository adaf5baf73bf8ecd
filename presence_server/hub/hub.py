"""The node's tick: every channel with news, then one write for every connection that has any."""

from collections.abc import Callable
from typing import Final

from presence_server.counters import Counts
from presence_server.hub.backlog import Backlog
from presence_server.hub.channel import Channel
from presence_server.hub.outbox import Outbox
from presence_server.hub.ports import Encoding, RosterSource, Wire
from presence_server.hub.total import Total
from presence_server.protocol import codes
from presence_server.timers import Timers

CLOSES_A_TICK: Final = 50
"""Connections closed as too slow in one tick: each leaves its rooms, and others are to have their turn."""


class Hub:
    """All channels and outboxes of a node.

    `wake(delay_ms)` asks for a `tick` no later than that many milliseconds from now; 0 means once what has
    come in meanwhile has been read. A connection for which more than `soft_bytes` wait is behind; `hard_bytes` and
    `hard_ms` are how much may wait for it, and for how long. `total_bytes` is how much may wait for all connections.
    `sheds_signal()` tells whether there is so much to do that a signal is dropped. `now_s()` is a monotonic clock, by
    which a tick stops writing when its time is over.
    """

    def __init__(
        self,
        wake: Callable[[int], None],
        *,
        soft_bytes: int,
        hard_bytes: int,
        hard_ms: int,
        total_bytes: int,
        sheds_signal: Callable[[], bool],
        now_s: Callable[[], float],
    ) -> None:
        self.wake = wake
        self.soft_bytes = soft_bytes
        self.hard_bytes = hard_bytes
        self.sheds_signal = sheds_signal
        self.dirty: list[Outbox] = []
        """Outboxes with something to write this tick, each once."""
        self.events: Counts[type] = Counts()
        """Events that rooms were sent, each once however many watch, by type."""
        self.deliveries = 0
        """Events times the watchers that were sent them at once."""
        self.conflations = 0
        """Times that a connection fell so far behind that it was sent a room's state instead of its events."""
        self.too_slow_closes = 0
        self._hard_ms = hard_ms
        self._active: dict[Channel, None] = {}
        self._later: Timers[Channel] = Timers()
        """The times at which channels whose open batch is not due yet are to be flushed."""
        self._behind: dict[Outbox, int | None] = {}
        self._recovering: dict[Outbox, None] = {}
        self._too_slow: dict[Outbox, None] = {}
        self._total = Total(total_bytes)
        self.backlog = Backlog(now_s)
        """Outboxes that the last tick had no time to write."""

    def new_outbox(self, encoding: Encoding, wire: Wire) -> Outbox:
        """Make the outbox of a new connection."""
        outbox = Outbox(self, encoding, wire)
        self._total.outboxes.add(outbox)
        return outbox

    def channel(self, source: RosterSource) -> Channel:
        """Make the channel of a room."""
        return Channel(self, source)

    def activate(self, channel: Channel) -> None:
        """Have a channel flushed with the next tick."""
        if channel not in self._active:
            self._active[channel] = None
            self.wake(0)

    def tick(self, now_ms: int) -> None:
        """Send the watchers of every room what has happened since the last tick."""
        for channel in self._later.pop_due(now_ms):
            self.activate(channel)
        self._recover()
        active, self._active = self._active, {}
        for channel in active:
            due_ms = channel.flush(now_ms)
            if due_ms is not None and channel not in self._later:
                self._later.schedule(channel, due_ms)
        dirty, self.dirty = self.dirty, []
        total = self._total
        total.estimated_bytes += self.backlog.write_outboxes(dirty)
        if self.backlog:
            self.wake(0)
        if self._too_slow or total.may_be_over:
            self._close_too_slow()
        next_ms = self._later.next_due()
        if next_ms is not None:
            self.wake(max(0, next_ms - now_ms))

    def _close_too_slow(self) -> None:
        for outbox in self._total.take_excess():
            self._too_slow[outbox] = None
        closed = 0
        while self._too_slow:
            if closed == CLOSES_A_TICK:
                self.wake(0)
                return
            outbox = next(iter(self._too_slow))
            del self._too_slow[outbox]
            if outbox.wire is not None:
                closed += 1
                self.too_slow_closes += 1
                outbox.wire.close(codes.TOO_SLOW)

    @property
    def unsent_bytes(self) -> int:
        """All that waits for all connections."""
        return self._total.measure()

    def count_unsent(self, size: int) -> None:
        """Count what waits and is not written."""
        self._total.estimated_bytes += size
        if self._total.may_be_over:
            self.wake(0)

    def close_stuck(self, now_ms: int) -> None:
        """Close the connections that have been behind for too long."""
        self._total.forget_closed()
        for outbox, since_ms in list(self._behind.items()):
            if since_ms is None:
                self._behind[outbox] = now_ms
            elif now_ms - since_ms >= self._hard_ms:
                self.close_too_slow(outbox)

    def close_too_slow(self, outbox: Outbox) -> None:
        """Have a connection closed at the end of the tick, when nobody is in the middle of writing."""
        self._too_slow[outbox] = None
        self.wake(0)

    def note_behind(self, outbox: Outbox) -> None:
        """Keep an eye on a connection that does not read."""
        self._behind[outbox] = None
        self._recovering.pop(outbox, None)

    def note_caught_up(self, outbox: Outbox) -> None:
        """Begin to send a connection what it missed."""
        self._behind.pop(outbox, None)
        if outbox.lagging:
            self._recovering[outbox] = None
            self.wake(0)

    def forget_outbox(self, outbox: Outbox) -> None:
        """Drop every trace of a connection."""
        self._behind.pop(outbox, None)
        self._recovering.pop(outbox, None)
        self._too_slow.pop(outbox, None)
        self.backlog.drop_outbox(outbox)
        self._total.note_closed(outbox)

    def _recover(self) -> None:
        """Give back one room to each connection that reads again; a sync may well set it behind once more."""
        for outbox in list(self._recovering):
            if not outbox.lagging:
                del self._recovering[outbox]
                continue
            watcher = outbox.lagging.pop(0)
            watcher.channel.resume_watcher(watcher)
            self.wake(0)
