"""The port through which rooms report what concerns more than one of them, and ask whether they are stale."""

from collections.abc import Callable
from typing import Protocol


class RoomsObserver(Protocol):
    """Hears of rooms what concerns the whole node; a process on its own has nothing to do about it."""

    def is_stale(self, room: str) -> bool:
        """Tell whether other nodes' members of a room may be out of date."""

    def note_occupied(self, room: str) -> None:
        """Note that a room has members here; called with every heartbeat."""

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Note that the store had lost a member of this node when it was asked at `asked_ms`."""

    def history_broken(self, room: str) -> None:
        """Note that the store has lost what it had said of a room."""

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Call `send` once the epoch of a connection is known, and its members are being entered: mostly at once."""
