"""The rooms of a node that have most members, found a part at a time: a node may have tens of thousands."""

import heapq
from collections.abc import Iterable
from typing import Final, Protocol

from presence_server.registry.figures import ROOMS_MAX, BusyRoom

PART_MAX: Final = 1_000
"""Rooms that are scanned in one step, at less than a µs each; of more rooms the rest is scanned in later steps."""


class ScannedView(Protocol):
    """A room with watchers on this node, and how many members it has."""

    @property
    def room(self) -> str:
        """Its name."""

    @property
    def members(self) -> int:
        """Its connections."""

    @property
    def users(self) -> int:
        """The users that these are of."""


class BusyRooms:
    """Scans the views of a node again and again; `largest` is the result of the last scan that is complete."""

    def __init__(self, most: int = ROOMS_MAX, part: int = PART_MAX) -> None:
        self.largest: list[BusyRoom] = []
        self._most = most
        self._part = part
        self._rest: list[ScannedView] = []
        """Views that this scan has not reached."""
        self._largest_so_far: list[BusyRoom] = []

    def scan_part(self, views: Iterable["ScannedView"]) -> None:
        """Scan the next part; begin again with `views` where the last scan is complete."""
        if not self._rest:
            self._rest = list(views)  # a copy: rooms come and go before the scan is complete
            self._largest_so_far = []
        part = self._rest[-self._part :]
        del self._rest[-self._part :]
        rooms = (BusyRoom(view.room, view.members, view.users) for view in part if view.members)
        self._largest_so_far = heapq.nsmallest(self._most, [*self._largest_so_far, *rooms], key=_order)
        if not self._rest:
            self.largest = self._largest_so_far


def _order(room: BusyRoom) -> tuple[int, str]:
    """Return by what rooms are sorted: the largest first, equal ones by name."""
    return -room.count, room.room
