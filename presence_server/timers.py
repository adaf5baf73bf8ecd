"""Deadlines of many keys, the earliest first, without a timer for any of them. Pure: the time is an argument.

A binary heap cannot move or remove an entry that is not its first. So the entry of a key that was cancelled, or whose
deadline has moved, stays where it is, and is dropped or moved once it comes to the top.
"""

import heapq
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

SPARE: Final = 64
"""Entries out of date, beyond as many as there are keys, before the heap is made anew."""
Key = TypeVar("Key", bound=Hashable)


class Timers(Generic[Key]):
    """A deadline for each key; times are whole numbers of any unit.

    To postpone a deadline costs a look into a table: a key that is renewed again and again is moved once, when its turn
    comes. Keys that are due at one moment come in the order of `order(key)`, which differs for each, or else in any.
    """

    __slots__ = ("_due", "_heap", "_moved", "_order", "_serial")

    def __init__(self, order: Callable[[Key], Any] | None = None) -> None:
        self._order = order
        self._serial = 0
        self._due: dict[Key, int] = {}
        self._moved: dict[Key, int] = {}
        """The times at which the heap has the keys whose deadline has moved to a later time since."""
        self._heap: list[tuple[int, Any, Key]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def __getitem__(self, key: Key) -> int:
        """Return when a key is due. Raises `KeyError` for one without a deadline."""
        return self._due[key]

    def schedule(self, key: Key, at: int) -> None:
        """Set the deadline of a key, in place of an earlier one."""
        queued = self._queued_at(key)
        self._due[key] = at
        if queued is None or at < queued:
            self._moved.pop(key, None)
            self._push(key, at)
        elif at > queued:
            self._moved[key] = queued
        else:
            self._moved.pop(key, None)

    def cancel(self, key: Key) -> None:
        """Forget a key's deadline, if it has one."""
        self._due.pop(key, None)
        self._moved.pop(key, None)

    def next_due(self) -> int | None:
        """Return the earliest deadline; None: there is none."""
        self._keep_first_due()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: int, most: int | None = None) -> list[Key]:
        """Forget and return the keys whose deadlines have come, the earliest first; at most so many."""
        keys: list[Key] = []
        while most is None or len(keys) < most:
            self._keep_first_due()
            if not self._heap or self._heap[0][0] > now:
                break
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            keys.append(key)
        return keys

    def _queued_at(self, key: Key) -> int | None:
        """Return at what time the heap has the entry of a key; others that it has are out of date."""
        return self._moved.get(key, self._due.get(key))

    def _keep_first_due(self) -> None:
        """Bring the heap's first entry up to date."""
        heap = self._heap
        while heap:
            queued, rank, key = heap[0]
            if self._queued_at(key) != queued:
                heapq.heappop(heap)
            elif self._moved.pop(key, None) is not None:
                heapq.heapreplace(heap, (self._due[key], rank, key))
            else:
                return

    def _push(self, key: Key, at: int) -> None:
        heapq.heappush(self._heap, (at, self._rank(key), key))
        if len(self._heap) > 2 * len(self._due) + SPARE:
            self._heap = [(due, self._rank(each), each) for each, due in self._due.items()]
            heapq.heapify(self._heap)
            self._moved.clear()

    def _rank(self, key: Key) -> Any:
        if self._order is not None:
            return self._order(key)
        self._serial += 1
        return self._serial
