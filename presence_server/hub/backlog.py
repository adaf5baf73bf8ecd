"""Outboxes that a tick had no time to write, and how the time of the next ticks is shared among them.

A tick writes for `FLUSH_S`. What was gathered for the rest is carried: short outboxes come first in the next tick,
before what that tick has gathered, so that a pong never waits for megabytes of others; long ones have their share of
every tick.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from presence_server.hub.outbox import Outbox

FLUSH_S: Final = 0.005
"""The longest that a tick may write before the loop does everything else."""
SHARE_S: Final = 0.002
"""The least share of `FLUSH_S` for long outboxes, where any are carried."""
SHORT_BYTES: Final = 16_384
"""An outbox with no more than that is written in tens of microseconds."""
CHECK_BYTES: Final = 65_536
"""The clock is read once for so many bytes, since to read it for each write would cost a fan-out some percent."""
WRITE_BYTES: Final = 4_096
"""The weight of a write besides its bytes: to begin one takes as long as to copy so many."""


class Backlog:
    """Writes outboxes for as long as a tick may, and keeps the others in order; `now_s` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._short: OrderedDict[Outbox, float] = OrderedDict()
        self._long: OrderedDict[Outbox, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def waited_s(self) -> float:
        """Return how long the outbox has waited that has waited longest."""
        since_s = [next(iter(queue.values())) for queue in (self._short, self._long) if queue]
        return self._now_s() - min(since_s) if since_s else 0.0

    def write_outboxes(self, dirty: "list[Outbox]") -> int:
        """Write what there is time for, and carry the rest. Return by how much what waits or is written has grown."""
        ends_s = self._now_s() + FLUSH_S
        carried_bytes = 0
        if self._long:
            fresh = [outbox for outbox in dirty if outbox not in self._long]
            carried_bytes += sum(outbox.carry() for outbox in dirty if outbox in self._long)
        else:
            fresh = dirty
        written_bytes = 0
        fresh_ends_s = ends_s - SHARE_S if self._long else ends_s
        if self._short:
            written_bytes += self._write_until(_popped(self._short), fresh_ends_s)
        unwritten = iter(fresh)
        written_bytes += self._write_until(unwritten, fresh_ends_s)
        if self._long:
            written_bytes += self._write_until(_popped(self._long), ends_s)
        now_s = self._now_s()
        for outbox in unwritten:
            carried_bytes += outbox.carry()
            self._queue_carried(outbox, now_s)
        return written_bytes + carried_bytes

    def drop_outbox(self, outbox: "Outbox") -> None:
        """Drop an outbox that is closed."""
        self._short.pop(outbox, None)
        self._long.pop(outbox, None)

    def _queue_carried(self, outbox: "Outbox", now_s: float) -> None:
        """Put an outbox where it waits; one that grows long waits among the long ones, from when it began to wait."""
        since_s = self._short.get(outbox, now_s)
        if outbox.carried_bytes > SHORT_BYTES:
            self._short.pop(outbox, None)
            self._long[outbox] = since_s
        elif outbox.carried_bytes:
            self._short[outbox] = since_s

    def _write_until(self, outboxes: "Iterator[Outbox]", ends_s: float) -> int:
        """Write outboxes until the time is over, some at least. Return how much was written that was not carried."""
        written_bytes = unchecked_bytes = 0
        for outbox in outboxes:
            carried_bytes = outbox.carried_bytes
            size = outbox.flush()
            written_bytes += size - carried_bytes
            unchecked_bytes += size + WRITE_BYTES
            if unchecked_bytes >= CHECK_BYTES:
                if self._now_s() >= ends_s:
                    break
                unchecked_bytes = 0
        return written_bytes


def _popped(queue: "OrderedDict[Outbox, float]") -> "Iterator[Outbox]":
    while queue:
        yield queue.popitem(last=False)[0]
