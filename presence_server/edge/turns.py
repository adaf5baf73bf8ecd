"""The loop's time, shared out: what clients make a node do in one turn of the loop has a bound in time.

A connection that has work begins it at once where this turn of the loop has time left and nobody waits. Otherwise
it waits in one of three queues, and is not read from meanwhile:

- `FRESH`: members that have just sent something;
- `BUSY`: members whose work did not fit one slice: others go first, however much one of them sends;
- `NEWCOMERS`: sockets in the middle of a handshake, one of each address in turn.

A turn serves them in this order, but each queue has its share of it, so that none starves. After `TURN_S` the loop
polls its sockets and timers before the next turn begins.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from time import perf_counter
from typing import Final, TypeAlias

TURN_S: Final = 0.005
"""The longest that clients' work may take before the loop does everything else."""
SLICE_S: Final = 0.001
"""The longest that one connection may work before others have their slice."""
SHARE_S: Final = 0.001
"""The least share of each turn that `BUSY` and `NEWCOMERS` have while connections wait in them."""

Work: TypeAlias = Callable[[], None]


class Queue(IntEnum):
    """The queues of work, in the order in which a turn serves them."""

    FRESH = 0
    BUSY = 1
    NEWCOMERS = 2


class FairQueue:
    """Work in the order of its arrival, but one piece for each key in turn; with one key it is a plain queue."""

    __slots__ = ("_by_key", "_size")

    def __init__(self) -> None:
        self._by_key: dict[str, deque[tuple[float, Work]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, key: str, now_s: float, work: Work) -> None:
        """Add work to the end of its key's."""
        self._by_key.setdefault(key, deque()).append((now_s, work))
        self._size += 1

    def popleft(self) -> Work:
        """Take the first work of the first key, which then is the last one."""
        key = next(iter(self._by_key))
        waiting = self._by_key.pop(key)
        _, work = waiting.popleft()
        if waiting:
            self._by_key[key] = waiting
        self._size -= 1
        return work

    def waited_s(self, now_s: float) -> float:
        """Return how long the next work has waited."""
        return now_s - next(iter(self._by_key.values()))[0][0] if self._by_key else 0.0


class Turns:
    """Decides whose work is done now and whose waits for the next turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues = tuple(FairQueue() for _ in Queue)
        self._ends_s = 0.0
        """The end of this turn's time; 0: nothing has been done since the loop polled."""
        self._slice_ends_s = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def may_begin(self, queue: Queue) -> bool:
        """Tell whether work may begin now, and begin its slice; if not, it is for `queue_work`."""
        now_s = perf_counter()
        if self._ends_s == 0.0:
            self._ends_s = now_s + TURN_S
            self._loop.call_soon(self._take_turn)
        if now_s >= self._ends_s or self._queues[queue] or (queue is Queue.NEWCOMERS and len(self)):
            return False
        self._slice_ends_s = min(now_s + SLICE_S, self._ends_s)
        return True

    def queue_work(self, queue: Queue, key: str, work: Work) -> None:
        """Have `work` called when its slice begins."""
        now_s = perf_counter()
        if self._ends_s == 0.0:
            self._ends_s = now_s + TURN_S
            self._loop.call_soon(self._take_turn)
        self._queues[queue].append(key, now_s, work)

    @property
    def slice_over(self) -> bool:
        """Whether who works now must let others work; its next piece of work waits."""
        return perf_counter() >= self._slice_ends_s

    def waited_s(self) -> float:
        """Return how long the member has waited whose work is next."""
        return self._queues[Queue.FRESH].waited_s(perf_counter())

    def _take_turn(self) -> None:
        """Serve those who wait: the loop has polled since the last turn."""
        if not len(self):
            self._ends_s = 0.0
            return
        self._loop.call_soon(self._take_turn)
        ends_s = self._ends_s = perf_counter() + TURN_S
        fresh, busy, newcomers = self._queues
        reserved_s = SHARE_S * ((len(busy) > 0) + (len(newcomers) > 0))
        self._serve(fresh, ends_s - reserved_s)
        self._serve(busy, ends_s - SHARE_S * (len(newcomers) > 0))
        self._serve(newcomers, ends_s)

    def _serve(self, queue: FairQueue, until_s: float) -> None:
        """Serve a queue until `until_s`, at least one and none twice."""
        for _ in range(len(queue)):
            now_s = perf_counter()
            self._slice_ends_s = min(now_s + SLICE_S, max(until_s, now_s + SHARE_S))
            queue.popleft()()
            if perf_counter() >= until_s:
                break
