"""The rooms of a node that have most members, found a part at a time: a node may have tens of thousands."""

import heapq
from collections.abc import Iterable
from typing import Final

from presence_server.registry.figures import ROOMS_MAX, BusyRoom
from presence_server.rooms.view import View

PART_MAX: Final = 1_000
"""Rooms that are looked at in one step, at less than a µs each; of more rooms the rest is looked at in later steps."""


class BusyRooms:
    """Looks through the views of a node again and again; `found` is what the last full look has found."""

    def __init__(self, most: int = ROOMS_MAX, part: int = PART_MAX) -> None:
        self.found: list[BusyRoom] = []
        self._most = most
        self._part = part
        self._rest: list[View] = []
        """Views that the look under way has not come to."""
        self._largest: list[BusyRoom] = []

    def look(self, views: Iterable[View]) -> None:
        """Look at the next part; begin again with `views` where the last look is through."""
        if not self._rest:
            self._rest = list(views)  # a copy: rooms come and go before the look is through
            self._largest = []
        part = self._rest[-self._part :]
        del self._rest[-self._part :]
        rooms = (BusyRoom(view.room, view.members, len(view.roster.users)) for view in part if view.members)
        self._largest = heapq.nsmallest(self._most, [*self._largest, *rooms], key=_order)
        if not self._rest:
            self.found = self._largest


def _order(room: BusyRoom) -> tuple[int, str]:
    """Return by what rooms are sorted: the largest first, equal ones by name."""
    return -room.count, room.room
