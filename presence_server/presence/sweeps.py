"""The rooms that a node sweeps in the shared store: when each is due, and how large it is. Pure."""

import heapq
from typing import Final

SWEEP_RETRY_MS: Final = 1_000
"""A sweep that was asked for and not answered is not asked for again before this."""


class WatchedRoom:
    """One room, as the sweeper knows it; times are by the store's clock.

    `due_ms`: when its next member may expire; 0: there is nothing to expire. `members`: how many it had when that was
    last said. `asked_ms`: when a sweep was asked for that has not been answered; None: there is none.
    """

    __slots__ = ("asked_ms", "due_ms", "members", "queued_ms")

    def __init__(self) -> None:
        self.due_ms = 0
        self.members = 0
        self.asked_ms: int | None = None
        self.queued_ms: int | None = None


class SweepSchedule:
    """The rooms that somebody here watches. Others are swept by whoever watches them."""

    def __init__(self) -> None:
        self._rooms: dict[str, WatchedRoom] = {}
        # Every watched room with a deadline is in this heap at or before that deadline.
        self._queue: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._rooms)

    def add_room(self, room: str) -> None:
        """Look after a room from now on."""
        if room not in self._rooms:
            self._rooms[room] = WatchedRoom()

    def remove_room(self, room: str) -> None:
        """Stop looking after a room."""
        self._rooms.pop(room, None)
        if len(self._queue) > 2 * len(self._rooms):  # most of it is of rooms that are forgotten
            queued = [(watched.queued_ms, name) for name, watched in self._rooms.items()]
            self._queue = sorted((at_ms, name) for at_ms, name in queued if at_ms is not None)

    def member_count(self, room: str) -> int:
        """Return how many members a room is known to have."""
        watched = self._rooms.get(room)
        return 0 if watched is None else watched.members

    def note_members(self, room: str, members: int) -> None:
        """Note how many members a room has."""
        watched = self._rooms.get(room)
        if watched is not None:
            watched.members = members

    def expect(self, room: str, due_ms: int) -> None:
        """Note when a room's next member may expire; 0: there is none."""
        watched = self._rooms.get(room)
        if watched is not None:
            watched.due_ms = due_ms
            self._queue_until(room, watched, due_ms)

    def take_due_rooms(self, now_ms: int) -> list[str]:
        """Return the rooms that are to be swept now: each is asked about once until it is answered."""
        rooms = []
        while self._queue and self._queue[0][0] <= now_ms:
            queued_ms, room = heapq.heappop(self._queue)
            watched = self._rooms.get(room)
            if watched is None or watched.queued_ms != queued_ms:
                continue
            watched.queued_ms = None
            if self.begin_sweep(room, now_ms):
                rooms.append(room)
            elif watched.due_ms > now_ms:
                self._queue_until(room, watched, watched.due_ms)
            elif watched.due_ms > 0:
                self._queue_until(room, watched, now_ms + SWEEP_RETRY_MS)
        return rooms

    def begin_sweep(self, room: str, now_ms: int) -> bool:
        """Return whether a room is to be swept now, and note that it is."""
        watched = self._rooms.get(room)
        if watched is None or not 0 < watched.due_ms <= now_ms:
            return False
        if watched.asked_ms is not None and 0 <= now_ms - watched.asked_ms < SWEEP_RETRY_MS:
            return False
        watched.asked_ms = now_ms
        self._queue_until(room, watched, now_ms + SWEEP_RETRY_MS)
        return True

    def note_swept(self, room: str) -> None:
        """Note that a sweep was answered: the next one need not wait."""
        watched = self._rooms.get(room)
        if watched is not None:
            watched.asked_ms = None

    def _queue_until(self, room: str, watched: WatchedRoom, at_ms: int) -> None:
        if at_ms > 0 and (watched.queued_ms is None or at_ms < watched.queued_ms):
            watched.queued_ms = at_ms
            heapq.heappush(self._queue, (at_ms, room))
