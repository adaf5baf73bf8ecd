"""The port: what a bus does."""

from collections.abc import Callable
from typing import Protocol, TypeVar

Event = TypeVar("Event")
Event_contra = TypeVar("Event_contra", contravariant=True)


class Publisher(Protocol[Event_contra]):
    """Sends events to rooms, each sender's in order."""

    def publish(self, room: str, event: Event_contra, sent: Callable[[], None] | None = None) -> None:
        """Send to every node that subscribed, this one too; `sent` is called once, when it is out."""


class Bus(Protocol[Event]):
    """Carries events to the handler of each room, at most once, in one sender's order."""

    def publish(self, room: str, event: Event, sent: Callable[[], None] | None = None) -> None:
        """Send to every node that subscribed, this one too; `sent` is called once, when it is out."""

    def subscribe(self, room: str, handler: Callable[[Event], None], ready: Callable[[], None]) -> None:
        """Begin to receive a room's events; `ready` is called once, when none will be missed any more."""

    def unsubscribe(self, room: str) -> None:
        """Stop receiving a room's events."""
