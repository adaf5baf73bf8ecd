"""The port: what a bus does."""

from collections.abc import Callable
from typing import Protocol, TypeVar

Event_contra = TypeVar("Event_contra", contravariant=True)


class Bus(Protocol[Event_contra]):
    """Carries events to the listener of each room, at most once, in one sender's order.

    A node listens with one callback; `subscribe` says for which rooms.
    """

    def subscribe(self, room: str, ready: Callable[[], None]) -> None:
        """Begin to receive a room's events; `ready` is called once, when none will be missed any more."""

    def unsubscribe(self, room: str) -> None:
        """Stop receiving a room's events."""

    def publish(self, room: str, event: Event_contra, sent: Callable[[], None] | None = None) -> None:
        """Send to every node that subscribed, this one too; `sent` is called once, when it is out."""
