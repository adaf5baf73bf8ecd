"""A whole room, read from the shared store in parts that are too short to hold it up. Pure.

Each part shows the room as it was at its own seq, and the room goes on between two. The deltas that the channel
brings meanwhile lead from one part to the next, so that the result is the room as it was at the last part: a member
that stays is in a part (HSCAN promises that), and every join, update and leave is in a delta.
"""

from collections.abc import Callable, Sequence
from typing import Final

from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.roster import Delta, MemberCounts, Record, Roster, Snapshot
from presence_server.presence.script_calls import PageAnswer

DELTAS_MAX: Final = 1_000
"""Deltas that are kept for a room that is being read; beyond them it is read anew."""
WAIT_MS: Final = 1_000
"""A room whose deltas have not come for so long after its last part is read anew: one was lost."""


class RosterRead:
    """One room while it is being read; `done` gets the snapshot.

    Of a room with more than `members_max` members it has the numbers alone; 0: of none.
    """

    __slots__ = (
        "_base",
        "_counts",
        "_deltas",
        "_generation",
        "_is_torn",
        "_parts",
        "cursor",
        "done",
        "is_abandoned",
        "members_max",
        "read_at_ms",
        "room",
    )

    def __init__(self, room: str, members_max: int, done: Callable[[Snapshot], None]) -> None:
        self.room = room
        self.members_max = members_max
        self.done = done
        self.is_abandoned = False
        self._begin()

    def _begin(self) -> None:
        self.cursor = FIRST_PAGE
        """Where the next part begins; "": all of them are read."""
        self.read_at_ms = 0
        """When the last part was read."""
        self._generation = 0
        self._base = 0
        self._parts: list[tuple[int, Sequence[Record]]] = []
        self._deltas: list[Delta] = []
        self._counts: MemberCounts | None = None
        self._is_torn = False
        """Whether more deltas have come than are kept."""

    def begin_anew(self) -> None:
        """Forget what has been read. No part may be under way."""
        self._begin()

    def receive_delta(self, delta: Delta) -> None:
        """Keep a delta of the room."""
        if delta.changes:
            self._deltas.append(delta)
        if len(self._deltas) > DELTAS_MAX:
            self._is_torn = True
            self._deltas.clear()

    def receive_part(self, page: PageAnswer, now_ms: int) -> None:
        """Take the next part; begin anew where the room is another one than that of the parts before."""
        generation, seq = int(page.answer.generation), page.answer.seq
        is_another = bool(self._parts) and (generation != self._generation or seq < self._parts[-1][0])
        if is_another or self._is_torn:
            self.begin_anew()
            return
        if not self._parts:
            self._generation, self._base = generation, seq
        self._parts.append((seq, page.records))
        self.cursor, self.read_at_ms = page.following, now_ms
        if page.is_refused:
            self._counts = page.counts

    def snapshot(self) -> Snapshot | None:
        """Return the room as it was at the last part; None: there are parts, or deltas, that have not come yet."""
        if self.cursor or self._is_torn:
            return None
        last = self._parts[-1][0]
        if self._counts is not None or len(self._parts) == 1:
            return Snapshot(self._generation, last, tuple(self._parts[0][1]), self._counts)
        deltas = {
            delta.seq: delta
            for delta in self._deltas
            if delta.generation == self._generation and self._base < delta.seq <= last
        }
        if len(deltas) < last - self._base:
            return None
        roster, at = Roster(), self._base
        for seq, records in self._parts:
            for missed in range(at + 1, seq + 1):
                roster.apply(deltas[missed])
            at = seq
            for record in records:
                roster.put(record)
        return Snapshot(self._generation, last, tuple(roster.records.values()))
