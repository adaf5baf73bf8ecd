"""A node's view of a room: its roster, moved by the deltas that the room's channel brings."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from presence_server.config.settings import RoomSettings
from presence_server.hub.hub import Hub
from presence_server.presence.paging import CidIndex, Page, page
from presence_server.presence.roster import Batch, Delta, Record, Roster, Snapshot, difference, json_bytes
from presence_server.protocol.messages import (
    Count,
    Diff,
    MemberLeave,
    Mode,
    Published,
    Signal,
    Stale,
    Sync,
)
from presence_server.rooms.events import Publication, RoomEvent, Settled, Signalled
from presence_server.rooms.feed import Feed
from presence_server.rooms.occupant import Membership

if TYPE_CHECKING:
    from presence_server.hub.channel import Channel

SYNC_MEMBERS_MAX: Final = 500
"""Members in a `sync`; the rest comes by page."""
PAGE_BYTES_MAX: Final = 262_144
"""Bytes of members in a `sync` or a `page`, and never more than three quarters of the soft limit.

A part of a roster alone must not set its connection behind, or changes are missed and the roster begins anew, without
end in a busy room.
"""
UNCROWDED: Final = 0.9
"""A crowded room has rosters again below this part of `full_max`, so that it does not flap."""

ReadSnapshot = Callable[[str, Callable[[Snapshot], None]], None]


class View:
    """One room as this node knows it, shared by all its watchers here."""

    __slots__ = (
        "_batch",
        "_order",
        "_page_bytes_max",
        "_provisional",
        "_roster_bytes_estimated",
        "channel",
        "crowded",
        "feed",
        "memberships",
        "room",
        "roster",
        "rules",
        "stale",
    )

    def __init__(
        self, room: str, rules: RoomSettings, hub: Hub, read_snapshot: ReadSnapshot, *, stale: bool = False
    ) -> None:
        self.room = room
        self.rules = rules
        self.roster = Roster()
        self.crowded = False
        self.channel: Channel = hub.channel(self)
        self.feed = Feed(partial(read_snapshot, room), self._apply, self._compare)
        self.memberships = 0
        """How many connections of this node are in the room, or about to be."""
        self.stale = stale
        """Whether other nodes' members may be out of date."""
        self._batch = Batch()
        self._order = CidIndex()
        self._roster_bytes_estimated = 0
        """How long the roster is as JSON, at most: what comes is added, and it is counted when that matters."""
        self._page_bytes_max = min(PAGE_BYTES_MAX, hub.soft_bytes * 3 // 4)
        self._provisional: dict[str, Record] | None = None

    def receive(self, event: RoomEvent) -> None:
        """Take what the room's channel brings."""
        if isinstance(event, Delta):
            self.feed.receive(event)
        elif isinstance(event, Settled):
            self.settle(lambda record: record.node == event.node)
        elif not self._outdated(event.cid, event.epoch):
            if isinstance(event, Publication):
                self.channel.message(Published(self.room, event.cid, event.user, event.data, event.at))
            elif isinstance(event, Signalled):
                self.channel.signal(Signal(self.room, event.cid, event.user, event.key, event.data))

    def _outdated(self, cid: str | None, epoch: int) -> bool:
        """Tell whether a later life of the sending connection is known."""
        record = None if cid is None else self.roster.records.get(cid)
        return record is not None and epoch < record.epoch

    def _compare(self, snapshot: Snapshot) -> None:
        delta = difference(self.roster, snapshot)
        if self._provisional is not None:
            for leave in delta.leaves:
                self._provisional[leave.cid] = self.roster.records[leave.cid]
            delta = msgspec.structs.replace(delta, leaves=())
        self._apply(delta)

    def doubt(self) -> None:
        """Keep those whom the next snapshots lack, until their node has spoken or their time is over."""
        self._provisional = {}

    def settle(self, gone: Callable[[Record], bool]) -> None:
        """Let those go whom the store does not have and of whom `gone` is true."""
        if not self._provisional:
            return
        leaves = []
        for cid, record in list(self._provisional.items()):
            if self.roster.records.get(cid) is not record:
                del self._provisional[cid]
            elif gone(record):
                del self._provisional[cid]
                leaves.append(MemberLeave(cid, record.member.user, "timeout"))
        if leaves:
            self._apply(Delta(self.feed.generation, self.feed.seq, 0, 0, leaves=tuple(leaves)))

    def believe(self) -> None:
        """End all doubt: who has not been heard of is gone."""
        self.settle(lambda _: True)
        self._provisional = None

    def tell_stale(self, *, stale: bool) -> None:
        """Tell the watchers whether other nodes' members may be out of date, if that has changed."""
        if stale != self.stale:
            self.stale = stale
            self.channel.announce(Stale(self.room, stale))

    def _apply(self, delta: Delta) -> None:
        self._batch.note(self.roster, delta)
        self.roster.apply(delta)
        for change in delta.updates:
            self._roster_bytes_estimated += len(change.state)
        for record in delta.joins:
            self._roster_bytes_estimated += json_bytes(record.member)
        full_max = self.rules.full_max
        self.crowded = self.members > (full_max * UNCROWDED if self.crowded else full_max)
        self.channel.changed()

    def local_members(self) -> list[Membership]:
        """Return the members whose connections are on this node."""
        watchers = self.channel.watchers.values()
        return [watcher for watcher in watchers if isinstance(watcher, Membership) and watcher.you]

    @property
    def members(self) -> int:
        """How many members there are."""
        return len(self.roster.records)

    def take_diff(self) -> Diff | None:
        """Return what changed since the last call, if anything did."""
        net = self._batch.take(self.roster)
        if not net:
            return None
        if net.joins or net.leaves:
            self._order.follow(net)
        users = len(self.roster.users)
        return Diff(self.room, self.feed.seq, self.members, users, net.joins, net.updates, net.leaves)

    def count(self) -> Count:
        """Return the numbers as they are."""
        return Count(self.room, self.members, len(self.roster.users))

    def page(self, cursor: str | None, limit: int, *, without_bytes: int = 0) -> Page:
        """Return a page of what watchers have been told; the diffs that follow begin where it stands.

        A page of the roster itself could show a member of the open batch that is gone again when it
        closes, which nobody would ever be told. `without_bytes` stay free for something else.
        """
        batch, roster = self._batch, self.roster
        bytes_max = self._page_bytes_max - without_bytes
        if cursor is None and not batch and self.members <= limit and self._fits(bytes_max):
            return [record.member for record in roster.records.values()], None
        following = self._order.after(cursor, lambda: batch.told(roster))
        told = (batch.told_of(roster, cid) for cid in following)
        return page((record.member for record in told if record is not None), limit, bytes_max)

    def _fits(self, bytes_max: int) -> bool:
        """Tell whether the whole roster is no longer than that."""
        if self._roster_bytes_estimated > bytes_max:
            self._roster_bytes_estimated = sum(
                json_bytes(record.member) for record in self.roster.records.values()
            )
        return self._roster_bytes_estimated <= bytes_max

    def _first_page(self, you: str | None) -> Page:
        """Return the first page, in which a member finds itself."""
        members, cursor = self.page(None, SYNC_MEMBERS_MAX)
        own = None if you is None else self._batch.told_of(self.roster, you)
        if own is not None and cursor is not None and own.member.cid > cursor:
            size = json_bytes(own.member)
            members, cursor = self.page(None, SYNC_MEMBERS_MAX - 1, without_bytes=size)
            members.append(own.member)
        return members, cursor

    def sync(self, mode: Mode, *, you: str | None, request_id: int | None) -> Sync:
        """Return the room as it is, for one watcher; `you` is its cid if it is a member."""
        members, cursor = self._first_page(you) if mode == "full" else ([], None)
        return Sync(
            room=self.room,
            mode=mode,
            you=you is not None,
            seq=self.feed.seq,
            count=self.members,
            users=len(self.roster.users),
            members=members,
            cursor=cursor,
            stale=self.stale,
            id=msgspec.UNSET if request_id is None else request_id,
        )
