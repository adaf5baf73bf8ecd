"""The roster of a room as its watchers have been told it: without the open batch, and in pages. Pure."""

from typing import Final

from presence_server.presence.paging import CidIndex, Page, page
from presence_server.presence.roster import ChangeBatch, Delta, NetChange, Roster, json_bytes

SYNC_MEMBERS_MAX: Final = 500
"""Members in a `sync`; the rest comes by page."""
PAGE_BYTES_MAX: Final = 262_144
"""Bytes of members in a `sync` or a `page`, and never more than three quarters of the soft limit.

A part of a roster alone must not set its connection behind, or changes are missed and the roster begins anew, without
end in a busy room.
"""
STORE_CURSOR: Final = "/"
"""What the cursor of a page from the store begins with, as no cid does: of a room whose roster is held it is a cid."""


class WatchedRoster:
    """What watchers have been told of `roster`; a page has at most `page_bytes_max` bytes of members."""

    __slots__ = ("_batch", "_bytes_estimated", "_order", "_page_bytes_max", "_roster")

    def __init__(self, roster: Roster, page_bytes_max: int) -> None:
        self._roster = roster
        self._page_bytes_max = page_bytes_max
        self._batch = ChangeBatch()
        self._order = CidIndex()
        self._bytes_estimated = 0
        """How long the roster is as JSON, at most: what comes is added, and it is counted when that matters."""

    def begin_anew(self) -> None:
        """Forget what has changed, and in which order pages come: watchers get a sync."""
        self._batch, self._order = ChangeBatch(), CidIndex()

    def note_delta(self, delta: Delta) -> None:
        """Note what `delta`, about to be applied to the roster, will change."""
        self._batch.note_delta(self._roster, delta)
        for change in delta.updates:
            self._bytes_estimated += len(change.state)
        for record in delta.joins:
            self._bytes_estimated += json_bytes(record.member)

    def take_net_change(self) -> NetChange:
        """Return what has changed since the last call, which watchers are told now."""
        net = self._batch.take_net_change(self._roster)
        if net.joins or net.leaves:
            self._order.follow(net)
        return net

    def counts(self) -> tuple[int, int]:
        """Return how many members and users watchers have been told of: pages show those."""
        if not self._batch:
            return len(self._roster.records), len(self._roster.users)
        before = self._batch.records_before(self._roster)
        return len(before), len({record.member.user for record in before.values()})

    def first_page(self, you: str | None) -> Page:
        """Return the first page, in which a member finds itself."""
        members, cursor = self.page(None, SYNC_MEMBERS_MAX)
        own = None if you is None else self._batch.record_before(self._roster, you)
        if own is not None and cursor is not None and own.member.cid > cursor:
            size = json_bytes(own.member)
            members, cursor = self.page(None, SYNC_MEMBERS_MAX - 1, without_bytes=size)
            members.append(own.member)
        return members, cursor

    def page(self, cursor: str | None, limit: int, *, without_bytes: int = 0) -> Page:
        """Return a page, of which the diffs that follow begin where it stands.

        A page of the roster itself could show a member of the open batch that is gone again when it
        closes, which nobody would ever be told. `without_bytes` stay free for something else.
        """
        batch, roster = self._batch, self._roster
        bytes_max = self._page_bytes_max - without_bytes
        if cursor is not None and cursor.startswith(STORE_CURSOR):
            cursor = None  # the room was crowded when it was given
        if cursor is None and not batch and len(roster.records) <= limit and self._fits(bytes_max):
            return [record.member for record in roster.records.values()], None
        following = self._order.after(cursor, lambda: batch.records_before(roster))
        before = (batch.record_before(roster, cid) for cid in following)
        return page((record.member for record in before if record is not None), limit, bytes_max)

    def _fits(self, bytes_max: int) -> bool:
        """Tell whether the whole roster is no longer than that."""
        if self._bytes_estimated > bytes_max:
            self._bytes_estimated = sum(json_bytes(record.member) for record in self._roster.records.values())
        return self._bytes_estimated <= bytes_max
