"""A node's view of a room: its roster, moved by the deltas that the room's channel brings."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from presence_server.config.settings import RoomSettings
from presence_server.hub.hub import Hub
from presence_server.presence.roster import Batch, Delta, Roster, Snapshot, difference, page
from presence_server.protocol.messages import Count, Diff, Member, Mode, Published, Signal, Sync
from presence_server.rooms.events import Publication, RoomEvent, Signalled

if TYPE_CHECKING:
    from presence_server.hub.channel import Channel

SYNC_MEMBERS_MAX: Final = 500
"""Members in a `sync`; the rest comes by page."""
UNCROWDED: Final = 0.9
"""A crowded room has rosters again below this part of `full_max`, so that it does not flap."""

ReadSnapshot = Callable[[str, Callable[[Snapshot], None]], None]


class View:
    """One room as this node knows it, shared by all its watchers here."""

    __slots__ = (
        "_batch",
        "_generation",
        "_read_snapshot",
        "_seq",
        "channel",
        "crowded",
        "room",
        "roster",
        "rules",
    )

    def __init__(self, room: str, rules: RoomSettings, hub: Hub, read_snapshot: ReadSnapshot) -> None:
        self.room = room
        self.rules = rules
        self.roster = Roster()
        self.crowded = False
        self.channel: Channel = hub.channel(self)
        self._read_snapshot = read_snapshot
        self._batch = Batch()
        self._generation = 0
        self._seq = 0

    def load(self) -> None:
        """Read the room from the store; what differs is news."""
        self._read_snapshot(self.room, self._compare)

    def receive(self, event: RoomEvent) -> None:
        """Take what the room's channel brings."""
        if isinstance(event, Delta):
            if event.generation == self._generation and event.seq == self._seq + 1:
                self._apply(event)
            elif event.generation != self._generation or event.seq > self._seq:
                self.load()
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
        self._apply(difference(self.roster, snapshot))

    def _apply(self, delta: Delta) -> None:
        self._batch.note(self.roster, delta)
        self.roster.apply(delta)
        self._generation, self._seq = delta.generation, delta.seq
        full_max = self.rules.full_max
        self.crowded = self.members > (full_max * UNCROWDED if self.crowded else full_max)
        self.channel.changed()

    @property
    def members(self) -> int:
        """How many members there are."""
        return len(self.roster.records)

    def take_diff(self) -> Diff | None:
        """Return what changed since the last call, if anything did."""
        net = self._batch.take(self.roster)
        if not net:
            return None
        users = len(self.roster.users)
        return Diff(self.room, self._seq, self.members, users, net.joins, net.updates, net.leaves)

    def count(self) -> Count:
        """Return the numbers as they are."""
        return Count(self.room, self.members, len(self.roster.users))

    def page(self, cursor: str | None, limit: int) -> tuple[list[Member], str | None]:
        """Return a page of what watchers have been told; the diffs that follow begin where it stands.

        A page of the roster itself could show a member of the open batch that is gone again when it
        closes, which nobody would ever be told.
        """
        return page(self._batch.told(self.roster), cursor, limit)

    def sync(self, mode: Mode, *, you: bool, request_id: int | None) -> Sync:
        """Return the room as it is, for one watcher."""
        members: list[Member] = []
        cursor: str | None = None
        if mode == "full":
            members, cursor = page(self.roster.records, None, SYNC_MEMBERS_MAX)
        return Sync(
            room=self.room,
            mode=mode,
            you=you,
            seq=self._seq,
            count=self.members,
            users=len(self.roster.users),
            members=members,
            cursor=cursor,
            stale=False,
            id=msgspec.UNSET if request_id is None else request_id,
        )
