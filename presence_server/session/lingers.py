"""The connections of this node that have ended and whose members outlive them by their grace."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from presence_server.clock import Clock, Moment
from presence_server.presence.operations import Linger as LingerOperation
from presence_server.protocol.messages import Reason

LINGERS_MAX: Final = 100_000
"""Memberships remembered; of more, the oldest can no longer be ended before their grace is over."""


class Grace(NamedTuple):
    """A member that lingers in one room: its epoch, until when, and the reason of its leave."""

    epoch: int
    ends_ms: int
    reason: Reason = "timeout"


class LingeringConnection(NamedTuple):
    """A connection that has ended, and the rooms in which its members linger: until `until_ms` at the latest.

    `opaque` is the opaque session that it was let in with, "" for none.
    """

    cid: str
    user: str
    opaque: str
    opened: Moment
    rooms: Mapping[str, Grace]
    until_ms: int


class Lingers:
    """Lingering connections by cid, user and opaque session, so that a command can end their members at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_cid: dict[str, LingeringConnection] = {}
        """Oldest first."""
        self._by_user: dict[str, dict[str, LingeringConnection]] = {}
        self._by_opaque: dict[str, dict[str, LingeringConnection]] = {}
        self._memberships = 0

    def __len__(self) -> int:
        return self._memberships

    def add_lingering(self, linger: LingeringConnection) -> None:
        """Remember a connection that has ended, with the rooms of its earlier life to which it has not come back."""
        earlier = self._by_cid.get(linger.cid)
        if earlier is not None:
            now_ms = self._clock.now_ms()
            rest = {room: grace for room, grace in earlier.rooms.items() if grace.ends_ms > now_ms}
            linger = linger._replace(rooms={**rest, **linger.rooms})
        self.discard(linger.cid)
        self._by_cid[linger.cid] = linger
        self._by_user.setdefault(linger.user, {})[linger.cid] = linger
        if linger.opaque:
            self._by_opaque.setdefault(linger.opaque, {})[linger.cid] = linger
        self._memberships += len(linger.rooms)
        while self._memberships > LINGERS_MAX:
            self.discard(next(iter(self._by_cid)))

    def of_user(self, user: str) -> list[LingeringConnection]:
        """Return a user's lingering connections."""
        return list(self._by_user.get(user, {}).values())

    def of_session(self, opaque: str) -> list[LingeringConnection]:
        """Return the lingering connections of an opaque session."""
        return list(self._by_opaque.get(opaque, {}).values())

    def of_connection(self, cid: str) -> list[LingeringConnection]:
        """Return the linger of a connection, if there is one."""
        linger = self._by_cid.get(cid)
        return [] if linger is None else [linger]

    def is_lingering(self, cid: str, room: str) -> bool:
        """Tell whether a member whose connection has ended is within its grace."""
        return self.rest_of(cid, room) is not None

    def rest_of(self, cid: str, room: str) -> LingerOperation | None:
        """Return what is left of a member's grace as an operation; None: it does not linger, or its grace is over."""
        linger, now_ms = self._by_cid.get(cid), self._clock.now_ms()
        grace = None if linger is None else linger.rooms.get(room)
        if grace is None or grace.ends_ms <= now_ms:
            return None
        return LingerOperation(cid, grace.epoch, grace.ends_ms - now_ms, grace.reason)

    def discard(self, cid: str) -> None:
        """Forget a connection whose members have ended."""
        linger = self._by_cid.pop(cid, None)
        if linger is not None:
            self._memberships -= len(linger.rooms)
            _drop(self._by_user, linger.user, cid)
            if linger.opaque:
                _drop(self._by_opaque, linger.opaque, cid)

    def discard_over(self, now_ms: int) -> None:
        """Forget the connections whose `until_ms` has come; what was added later is over later."""
        while self._by_cid:
            first = next(iter(self._by_cid.values()))
            if first.until_ms > now_ms:
                break
            self.discard(first.cid)


def _drop(index: dict[str, dict[str, LingeringConnection]], key: str, cid: str) -> None:
    del index[key][cid]
    if not index[key]:
        del index[key]
