"""The bus of a process on its own: a function call."""

from collections.abc import Callable
from typing import Generic, TypeVar

Event = TypeVar("Event")


class LocalBus(Generic[Event]):
    """Delivers at once to `listener`, which is set before the first event."""

    def __init__(self) -> None:
        self.listener: Callable[[str, Event], None] | None = None
        self._rooms: set[str] = set()

    def subscribe(self, room: str, ready: Callable[[], None]) -> None:
        """Begin to deliver a room's events."""
        self._rooms.add(room)
        ready()

    def unsubscribe(self, room: str) -> None:
        """Stop delivering a room's events."""
        self._rooms.discard(room)

    def publish(self, room: str, event: Event, sent: Callable[[], None] | None = None) -> None:
        """Deliver to the listener, if the room is subscribed."""
        if self.listener is not None and room in self._rooms:
            self.listener(room, event)
        if sent is not None:
            sent()

    def __len__(self) -> int:
        return len(self._rooms)
