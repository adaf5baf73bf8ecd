"""The port: what can be asked about rooms, whichever node has them."""

from dataclasses import dataclass
from typing import Protocol

from presence_server.presence.roster import Record


@dataclass(frozen=True, slots=True)
class RoomCounts:
    """The number of members of a room, and of distinct users among them."""

    room: str
    count: int
    users: int


class RoomIndex(Protocol):
    """Reads rooms of all nodes from where they are kept. Every call may raise `StoreAwayError`.

    Pages go on from a cursor that the last page gave; None: from the beginning, or at the end. Who is there
    throughout is in one of the pages, and may be in two; a page may hold a few more or fewer than `limit`.
    The cursor of members is `scan:` and a number or `after:` and a cid.
    """

    def note_room(self, room: str, lease_ms: int = 0) -> None:
        """Note that a room may have members, now and for `lease_ms` at least."""

    async def rooms(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[RoomCounts], str | None]:
        """Return a page of the rooms that have members, in the order of their names."""

    async def counts(self, room: str) -> RoomCounts:
        """Return how many members and users a room has; zeros where it is empty."""

    async def members(self, room: str, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """Return a page of a room's members, never an expired one."""
