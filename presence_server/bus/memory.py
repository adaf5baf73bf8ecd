"""The bus of a process on its own: a function call."""

from collections.abc import Callable
from typing import Generic, TypeVar

Event = TypeVar("Event")


class MemoryBus(Generic[Event]):
    """Carries events within this process: `publish` delivers before it returns."""

    def __init__(self) -> None:
        self._handlers: dict[str, Callable[[Event], None]] = {}

    def subscribe(self, room: str, handler: Callable[[Event], None], ready: Callable[[], None]) -> None:
        """Begin to deliver a room's events."""
        self._handlers[room] = handler
        ready()

    def unsubscribe(self, room: str) -> None:
        """Stop delivering a room's events."""
        self._handlers.pop(room, None)

    def publish(self, room: str, event: Event, sent: Callable[[], None] | None = None) -> None:
        """Deliver, if the room is subscribed."""
        handler = self._handlers.get(room)
        if handler is not None:
            handler(event)
        if sent is not None:
            sent()

    def __len__(self) -> int:
        return len(self._handlers)
