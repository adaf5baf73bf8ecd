"""Time limits on connections without a timer for each: two shared structures that one sweep looks through."""

from collections.abc import Hashable, Iterator
from random import randrange
from typing import Final, Generic, TypeVar

SLICE_MS: Final = 250
"""The interval at which deadlines are checked, and so how exactly they are kept."""

SLOTS_MAX: Final = 256
"""Slots of a wheel; a longer period has longer slots."""

Item = TypeVar("Item", bound=Hashable)


class Timeouts(Generic[Item]):
    """Items that may take the same time each: the oldest is due first."""

    def __init__(self, allowed_ms: int) -> None:
        self._allowed_ms = allowed_ms
        self._due_ms: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._due_ms)

    def __contains__(self, item: Item) -> bool:
        return item in self._due_ms

    def start(self, item: Item, now_ms: int) -> None:
        """Begin an item's time, unless it is running."""
        self._due_ms.setdefault(item, now_ms + self._allowed_ms)

    def stop(self, item: Item) -> None:
        """Forget an item."""
        self._due_ms.pop(item, None)

    def take_timed_out(self, now_ms: int) -> list[Item]:
        """Return the items whose time is over, and forget them."""
        due: list[Item] = []
        for item, due_ms in self._due_ms.items():
            if due_ms > now_ms:
                break
            due.append(item)
        for item in due:
            del self._due_ms[item]
        return due


class Wheel(Generic[Item]):
    """Items that each have a turn once a period, spread evenly so that no moment has all of them."""

    def __init__(self, period_ms: int) -> None:
        slots = min(max(1, period_ms // SLICE_MS), SLOTS_MAX)
        self._slots: list[dict[Item, None]] = [{} for _ in range(slots)]
        self._slot_ms = period_ms / len(self._slots)
        self._turned_ms: float | None = None
        self._hand = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def place_item(self, item: Item) -> int:
        """Place an item anywhere on the wheel; return where, for `remove_item`."""
        place = randrange(len(self._slots))  # noqa: S311 - spreads load, guards nothing
        self._slots[place][item] = None
        return place

    def remove_item(self, item: Item, place: int) -> None:
        """Take an item off."""
        self._slots[place].pop(item, None)

    def turn(self, now_ms: int) -> Iterator[Item]:
        """Turn the wheel up to now; yield the items that it passes."""
        if self._turned_ms is None:
            self._turned_ms = now_ms
        while self._turned_ms + self._slot_ms <= now_ms:
            self._turned_ms += self._slot_ms
            self._hand = (self._hand + 1) % len(self._slots)
            yield from tuple(self._slots[self._hand])
