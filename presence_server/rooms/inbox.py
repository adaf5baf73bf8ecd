"""The requests of one connection that cannot be carried out yet, in the order in which they came."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from presence_server.hub.outbox import Outbox


class LimiterDecision(Enum):
    """A decision that a request waits for."""

    PENDING = "whether an earlier request is too much"


Awaited: TypeAlias = str | LimiterDecision
"""What a request waits for: a room that is being entered, by name, or a decision."""


class WaitingRequest(NamedTuple):
    """A request that waits, and what it counts as while it does."""

    size: int
    carry_out: Callable[[], None]


class Inbox:
    """Requests that wait, by what they wait for.

    A request passes the decision first and its room after it, never the other way, so that those of a room keep their
    order.
    """

    __slots__ = ("_outbox", "_waiting")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[Awaited, list[WaitingRequest]] | None = None
        """The requests by what they wait for. None: none waits, as on most connections at most times."""

    def is_held(self, what: Awaited) -> bool:
        """Tell whether a request that needs `what` must wait."""
        return self._waiting is not None and what in self._waiting

    def count(self, what: Awaited) -> int:
        """Return how many requests wait for `what`."""
        return len(self._waiting.get(what, ())) if self._waiting is not None else 0

    def hold(self, what: Awaited) -> None:
        """Have requests that need `what` wait from now on."""
        if self._waiting is None:
            self._waiting = {}
        self._waiting.setdefault(what, [])

    def keep(self, what: Awaited, size: int, carry_out: Callable[[], None]) -> None:
        """Keep a request that must wait; it counts as `size` for its connection meanwhile."""
        if self._waiting is not None:
            self._outbox.keep_request(size)
            self._waiting[what].append(WaitingRequest(size, carry_out))

    def release(self, what: Awaited, first: Callable[[], None] | None = None) -> None:
        """Carry out what has waited for `what`, in its order, but `first` before it.

        Each of these requests may hold those that follow it again.
        """
        released: list[WaitingRequest] = []
        if self._waiting is not None:
            released = self._waiting.pop(what, released)
            if not self._waiting:
                self._waiting = None
        if first is not None:
            first()
        for waiting in released:
            self._outbox.drop_request(waiting.size)
            waiting.carry_out()

    def clear(self) -> None:
        """Forget the requests that wait, which refer to the session: the connection has ended."""
        self._waiting = None
