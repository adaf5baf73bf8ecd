"""The room index of a process on its own."""

import heapq
from typing import TYPE_CHECKING, Final

from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.room_index.port import RoomCounts
from presence_server.presence.roster import Record, Roster

if TYPE_CHECKING:
    from presence_server.presence.port import MemberPage

PAGE_BYTES_MAX: Final = 16_777_216
"""More than a page of the largest members has: here it is bounded by their number."""
EMPTY: Final = Roster()


class MemoryRoomIndex:
    """Reads the memory store; see `RoomIndex` for what it promises. Members that expired are evicted first."""

    def __init__(self, store: PresenceMemoryStore) -> None:
        self._store = store

    def note_room(self, room: str, lease_ms: int = 0) -> None:
        """Do nothing: the store is in this process."""

    async def rooms(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[RoomCounts], str | None]:
        """Return a page of the rooms that have members."""
        self._store.sweep_expired()
        after = cursor or ""
        named = (room for room in self._store if room.startswith(prefix) and room > after)
        names = heapq.nsmallest(limit + 1, (room for room in named if self._roster(room).records))
        return [self._counts(room) for room in names[:limit]], names[limit - 1] if len(
            names
        ) > limit else None

    async def counts(self, room: str) -> RoomCounts:
        """Return how many members and users a room has."""
        self._store.sweep_expired()
        return self._counts(room)

    async def members(self, room: str, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """Return a page of a room's members, by cid."""
        self._store.sweep_expired()
        found: list[MemberPage | None] = []
        self._store.page(room, cursor or FIRST_PAGE, limit, PAGE_BYTES_MAX, found.append)
        (page,) = found
        return ([], None) if page is None else page

    def _counts(self, room: str) -> RoomCounts:
        roster = self._roster(room)
        return RoomCounts(room, len(roster.records), len(roster.users))

    def _roster(self, room: str) -> Roster:
        state = self._store.room(room)
        return EMPTY if state is None else state.roster
