"""The deadlines of a room's members, and the room's own time, which never steps back. Pure."""

import heapq
from collections.abc import Set
from typing import Final, NamedTuple

from presence_server.protocol.messages import Reason

NEVER_MS: Final = 2**62
STEP_BACK_MS: Final = 1_000
"""A store's clock that is further back than this at the next call was stepped; less is jitter."""


class RoomTime:
    """The time that one room's deadlines go by: its store's clock, whose steps back are made up for.

    A step back would leave every deadline that is there too far away. Here it moves none of them: the room's time
    goes on from where it was at the last call, `ahead_ms` ahead of the store's clock.
    """

    __slots__ = ("_read_ms", "ahead_ms")

    def __init__(self) -> None:
        self.ahead_ms = 0
        self._read_ms: int | None = None

    def read(self, store_ms: int) -> int:
        """Return the room's time at a moment of the store's clock, that of a call."""
        if self._read_ms is not None and self._read_ms - store_ms > STEP_BACK_MS:
            self.ahead_ms += self._read_ms - store_ms
        self._read_ms = store_ms
        return store_ms + self.ahead_ms


class Deadline(NamedTuple):
    """The time at which a member ends unless it is renewed, and the reason.

    `queued_ms` is where the member stands in the queue of what is due, at or before `at_ms`.
    """

    at_ms: int
    reason: Reason
    lingering: bool
    queued_ms: int


class Deadlines:
    """The deadline of each member, the earliest first and those of one moment in the order of their cids."""

    __slots__ = ("_by_cid", "_queue")

    def __init__(self) -> None:
        self._by_cid: dict[str, Deadline] = {}
        # Has an entry for each deadline at or before its time; one that was put off is moved when its turn comes.
        self._queue: list[tuple[int, str]] = []

    def __getitem__(self, cid: str) -> Deadline:
        return self._by_cid[cid]

    def set_at(self, cid: str, at_ms: int, reason: Reason, *, lingering: bool) -> None:
        """Let a member end then, instead of when it would have."""
        before = self._by_cid.get(cid)
        queued_ms = at_ms if before is None else min(before.queued_ms, at_ms)
        self._by_cid[cid] = Deadline(at_ms, reason, lingering, queued_ms)
        if before is None or queued_ms < before.queued_ms:
            heapq.heappush(self._queue, (queued_ms, cid))

    def set_never(self, cid: str) -> None:
        """Let a member stay until something else is said of it."""
        self._by_cid[cid] = Deadline(NEVER_MS, "timeout", lingering=False, queued_ms=NEVER_MS)

    def cancel_deadline(self, cid: str) -> None:
        """Remove a member's deadline; it must have one."""
        del self._by_cid[cid]

    def first_ms(self) -> int | None:
        """Return when the first member ends; None: none does."""
        self._refresh_first()
        return self._queue[0][0] if self._queue else None

    def last_ms(self) -> int | None:
        """Return when the last member ends; None: there is none. Looks at all of them."""
        return max((deadline.at_ms for deadline in self._by_cid.values()), default=None)

    def take_due(self, now_ms: int, exempt: Set[str], most: int) -> list[tuple[str, Deadline]]:
        """Remove and return the deadlines that have passed, at most so many, but for those of `exempt`."""
        taken: list[tuple[str, Deadline]] = []
        put_back: list[tuple[int, str]] = []
        while len(taken) < most:
            self._refresh_first()
            if not self._queue or self._queue[0][0] > now_ms:
                break
            at_ms, cid = heapq.heappop(self._queue)
            if cid in exempt:
                put_back.append((at_ms, cid))
            else:
                taken.append((cid, self._by_cid.pop(cid)))
        for entry in put_back:
            heapq.heappush(self._queue, entry)
        return taken

    def _refresh_first(self) -> None:
        """Bring the queue's first entry up to date: each deadline that was put off costs this once."""
        queue = self._queue
        while queue:
            queued_ms, cid = queue[0]
            deadline = self._by_cid.get(cid)
            if deadline is None or deadline.queued_ms != queued_ms:
                heapq.heappop(queue)
            elif deadline.at_ms > queued_ms:
                self._by_cid[cid] = deadline._replace(queued_ms=deadline.at_ms)
                heapq.heapreplace(queue, (deadline.at_ms, cid))
            else:
                return
