"""Pages of a roster, in the order of cids: each bounded in members and in bytes, and as dear as what is in it."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from presence_server.presence.roster import NetChange, json_bytes
from presence_server.protocol.messages import Member

CHANGES_MAX: Final = 1_000
"""A larger change is not followed: the order is made anew when the next page is asked for."""

FIRST_PAGE: Final = "scan:0"
"""The cursor of the first page that is read from a store."""
CURSOR_DIGITS_MAX: Final = 20
"""Digits of a cursor of HSCAN, which has 64 bits."""

Page = tuple[list[Member], str | None]


def is_cursor(cursor: str) -> bool:
    """Tell whether a cursor is of the kind that pages from a store give."""
    how, _, start = cursor.partition(":")
    is_number = start.isascii() and start.isdigit() and len(start) <= CURSOR_DIGITS_MAX
    return how == "after" or (how == "scan" and is_number)


class CidIndex:
    """The cids of a room's members, in order. Made when the first page is asked for, then kept up with each change."""

    __slots__ = ("_cids",)

    def __init__(self) -> None:
        self._cids: list[str] | None = None

    def follow(self, change: NetChange) -> None:
        """Take a change that the room's members were told of."""
        cids = self._cids
        if cids is None:
            return
        if len(change.joins) + len(change.leaves) > CHANGES_MAX:
            self._cids = None
            return
        for leave in change.leaves:
            self.remove(leave.cid)
        for member in change.joins:
            self.add(member.cid)

    def add(self, cid: str) -> None:
        """Take a member that has come; one that was there changes nothing."""
        if self._cids is not None:
            at = bisect_left(self._cids, cid)
            if self._cids[at : at + 1] != [cid]:
                self._cids.insert(at, cid)

    def remove(self, cid: str) -> None:
        """Take a member out that has left."""
        if self._cids is not None:
            at = bisect_left(self._cids, cid)
            if self._cids[at : at + 1] == [cid]:
                del self._cids[at]

    def after(self, cursor: str | None, cids: Callable[[], Iterable[str]]) -> Iterable[str]:
        """Return the cids after `cursor`; `cids()` returns all of them where there is no order yet."""
        if self._cids is None:
            self._cids = sorted(cids())
        start = 0 if cursor is None else bisect_right(self._cids, cursor)
        return (self._cids[at] for at in range(start, len(self._cids)))


def page(members: Iterable[Member], limit: int, bytes_max: int) -> Page:
    """Return the first members, at most `limit` and `bytes_max` of them, and where the next page starts.

    It is None where that was all. There is always one member at least where there is one at all.
    """
    taken: list[Member] = []
    size = 0
    for member in members:
        size += json_bytes(member)
        if taken and (len(taken) == limit or size > bytes_max):
            return taken, taken[-1].cid
        taken.append(member)
    return taken, None
