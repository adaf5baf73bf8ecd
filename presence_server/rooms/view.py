"""A node's view of a room: its roster, moved by the deltas that the room's channel brings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from presence_server.config.settings import RoomSettings
from presence_server.hub.hub import Hub
from presence_server.presence.paging import Page
from presence_server.presence.roster import (
    Delta,
    MemberCounts,
    Record,
    Roster,
    Snapshot,
    changed,
    difference,
)
from presence_server.protocol.messages import (
    Count,
    Diff,
    MemberLeave,
    Mode,
    Published,
    Reason,
    Signal,
    Stale,
    Sync,
)
from presence_server.rooms.crowd import Crowd
from presence_server.rooms.events import NodeReentered, Publication, RoomEvent, Signalled
from presence_server.rooms.feed import Feed
from presence_server.rooms.gone import GoneMembers
from presence_server.rooms.own_members import OwnMembers
from presence_server.rooms.provisional import ProvisionalMembers
from presence_server.rooms.watched_roster import PAGE_BYTES_MAX, WatchedRoster

if TYPE_CHECKING:
    from presence_server.hub.channel import Channel
    from presence_server.rooms.participant import Membership

UNCROWDED: Final = 0.9
"""A crowded room has rosters again below this part of `full_max`, so that it does not flap."""
EPOCH_MAX: Final = 2**62
"""Above every epoch: of a member of a crowd that has gone it is not known which life that was."""

ReadSnapshot = Callable[[str, Callable[[Snapshot], None], int], None]
"""Reads a room, with its members where these are at most so many."""
HistoryBroken = Callable[[str, Sequence[Record]], None]
IsLingering = Callable[[str, str], bool]


class View:
    """One room as this node knows it, shared by all its watchers here.

    `history_broken(room, ghosts)` is called where the store has lost what it had said of the room: it was wiped, or
    restored from an earlier moment. `ghosts` are members of this node that it has and that are not here any more.
    `is_lingering(cid, room)` tells whether a member whose connection has ended here is within its grace. Members that
    left are remembered for `fence_ms`, by the clock `now_ms`.

    Of a room with more than `full_max` members the view holds no roster, but the numbers (`_crowd`), and in `roster`
    the members of this node whose connections are gone: nobody else would enter these again in a store that is wiped.
    """

    __slots__ = (
        "_crowd",
        "_gone",
        "_history_broken",
        "_provisional",
        "_read_snapshot",
        "_recounted",
        "_watched",
        "channel",
        "crowded",
        "feed",
        "memberships",
        "own",
        "page_bytes_max",
        "room",
        "roster",
        "rules",
        "stale",
    )

    def __init__(
        self,
        room: str,
        rules: RoomSettings,
        hub: Hub,
        read_snapshot: ReadSnapshot,
        *,
        node: str,
        history_broken: HistoryBroken,
        is_lingering: IsLingering,
        now_ms: Callable[[], int],
        fence_ms: int,
        stale: bool,
    ) -> None:
        self.room = room
        self.rules = rules
        self.roster = Roster()
        self.crowded = False
        self.channel: Channel = hub.channel(self)
        self.feed = Feed(
            self._read,
            self._follow_delta,
            self._compare_snapshot,
            self.roster.records.__contains__,
        )
        self.memberships: dict[str, Membership] = {}
        """The connections of this node that are in the room, or about to be, by cid."""
        self.stale = stale
        """Whether watchers have been told that other nodes' members may be out of date."""
        self.own = OwnMembers(
            self.roster.records, self.memberships, node, lambda cid: is_lingering(cid, room)
        )
        self._read_snapshot = read_snapshot
        self._crowd: Crowd | None = None
        self._history_broken = history_broken
        self.page_bytes_max = min(PAGE_BYTES_MAX, hub.soft_bytes * 3 // 4)
        self._watched = WatchedRoster(self.roster, self.page_bytes_max)
        self._recounted = False
        """Whether watchers are to be told the numbers though no member has changed."""
        self._provisional = ProvisionalMembers(self.roster.records, self.own.is_served)
        self._gone = GoneMembers(now_ms, fence_ms)

    def receive_event(self, event: RoomEvent) -> None:
        """Apply a delta, or deliver a message, that the room's channel brings."""
        if isinstance(event, Delta):
            self.feed.receive_delta(event)
        elif isinstance(event, NodeReentered):
            self._note_reentered(event)
        elif event.cid is None:
            self._deliver(event)
        else:
            self.feed.receive_message(event.cid, partial(self._deliver, event))

    def _read(self, done: Callable[[Snapshot], None]) -> None:
        self._read_snapshot(self.room, done, self._roster_max)

    @property
    def _roster_max(self) -> int:
        """The number of members of which the roster is held: fewer in a crowded room, so that it does not flap."""
        full_max = self.rules.full_max
        return max(int(full_max * UNCROWDED) if self.crowded else full_max, 1)

    def _deliver(self, event: Publication | Signalled) -> None:
        """Send a message or a signal to the watchers, unless a later life of its sender is known."""
        if not self._is_outdated(event.cid, event.epoch):
            if isinstance(event, Publication):
                self.channel.add_message(Published(self.room, event.cid, event.user, event.data, event.at))
            else:
                self.channel.add_signal(Signal(self.room, event.cid, event.user, event.key, event.data))

    def _follow_delta(self, delta: Delta) -> None:
        """Apply a delta, without joins of members as they were before: a store that lost its last writes has these."""
        known = self.roster.records
        old = [
            record.member.cid
            for record in delta.joins
            if _is_older(record, known.get(record.member.cid), earlier_stays=False)
        ]
        if old:
            self._provisional.confirm(old)
            joins = tuple(record for record in delta.joins if record.member.cid not in old)
            delta = msgspec.structs.replace(delta, joins=joins)
        self._apply(delta)
        if self._crowd is not None:
            self._crowd.note_counts(delta.count, delta.users)
        else:
            self._drop_roster_if_crowded()

    def _is_outdated(self, cid: str | None, epoch: int) -> bool:
        """Tell whether a later life of the sending connection is known, or this one was taken for dead."""
        if cid is None:
            return False
        if self._crowd is not None and self._crowd.is_outdated(cid, epoch):
            return True
        record = self.roster.records.get(cid)
        return epoch < record.epoch if record is not None else self._gone.is_outdated(cid, epoch)

    def _compare_snapshot(self, snapshot: Snapshot) -> None:
        """Move the roster to a snapshot; members that it lacks have left, unless the store may have lost them."""
        broken = self.members > 0 and not self.feed.continues(snapshot)
        if snapshot.counts is not None or (self._crowd is not None and (broken or self._crowd.is_held)):
            self._compare_numbers(snapshot, broken=broken)
            return
        was_crowd, self._crowd = self._crowd is not None, None
        delta, known = difference(self.roster, snapshot), self.roster.records
        self._provisional.confirm(record.member.cid for record in snapshot.records)
        leaves = []
        for leave in delta.leaves:
            if self.own.is_served(leave.cid) or (broken and not self.own.is_leaving(leave.cid)):
                self._provisional.add(known[leave.cid])
            elif not self.is_provisional(leave.cid):
                leaves.append(leave)
        joins = [
            record
            for record in delta.joins
            if not _is_older(record, known.get(record.member.cid), earlier_stays=broken)
        ]
        ghosts = {record.member.cid: record for record in joins if self.own.is_ghost(record)}
        left_out = {*ghosts, *self._gone.pass_over(joins, history_broken=broken)}
        if left_out:
            joins = [record for record in joins if record.member.cid not in left_out]
        if broken:
            self._history_broken(self.room, list(ghosts.values()))
        self._apply(msgspec.structs.replace(delta, joins=tuple(joins), leaves=tuple(leaves)))
        if was_crowd:  # whoever is served the roster gets a sync, and no diff
            self._begin_batch()
        self._resolve_reentered(snapshot.generation)
        self._drop_roster_if_crowded()

    def _compare_numbers(self, snapshot: Snapshot, *, broken: bool) -> None:
        """Go by the numbers of a room. Where the store has lost the room they do not fall while nodes come back."""
        before = MemberCounts(self.members, self.users)
        is_recovering = len(self._provisional) > 0
        crowd = self._crowd or self._drop_roster(before)
        if broken or is_recovering:
            crowd.hold(before)
        if broken:
            self._history_broken(self.room, [])
        counts = snapshot.counts or MemberCounts(*_count(snapshot.records))
        crowd.note_counts(*counts)
        for cid in [cid for cid in self.roster.records if not self.own.is_lingering(cid)]:
            self.roster.remove(cid)  # it has left, and its leave was missed
        self._provisional.clear_reentered()
        self._gone.forget_all()
        self.channel.note_change()

    def _drop_roster_if_crowded(self) -> None:
        """Hold no roster of a crowded room, unless the store may lack what it says."""
        if self.crowded and self._crowd is None and not (self.feed.is_isolated or self._provisional):
            self._drop_roster(MemberCounts(self.members, self.users))

    def _drop_roster(self, counts: MemberCounts) -> Crowd:
        absent = self.own.all_absent()
        self.roster.clear()
        for record in absent:
            self.roster.put(record)
        self._crowd = Crowd(counts)
        self.crowded = True
        self._provisional.clear()
        self.own.forget_leaves()
        self._begin_batch()
        return self._crowd

    def _begin_batch(self) -> None:
        """Forget what has changed: watchers get a sync."""
        self._watched.begin_anew()
        self._recounted = True

    def known_to_memory(self, unseen: Sequence[Record]) -> list[Record]:
        """Return the members with which this node's memory is to begin; `unseen` are entered, and not shown yet."""
        self.drop_leaving()
        self.show_entered(unseen)
        if self._crowd is None:
            return list(self.roster.records.values())
        known = self.roster.records | {record.member.cid: record for record in unseen}
        self._crowd.isolate(known.values())
        return list(known.values())

    def isolate(self, generation: int) -> None:
        """Go on in memory, under another generation; see `Feed.isolate`."""
        self._provisional.clear_reentered()
        self.feed.isolate(generation)

    def rejoin(self, *, trusted: bool) -> None:
        """Come back to the store; see `Feed.rejoin`."""
        self._provisional.clear_reentered()
        if self._crowd is not None:
            self._crowd.rejoin()
        self.feed.rejoin(trusted=trusted)

    def note_position(self, generation: int, seq: int, now_ms: int) -> None:
        """Note that the store has said where the room is."""
        self.feed.note_position(generation, seq, now_ms)
        if not self.feed.loading:  # it has not moved: nothing was read
            self._resolve_reentered(generation)

    def _resolve_reentered(self, generation: int) -> None:
        """Resolve the members of nodes that have entered theirs again while the room was being read."""
        for node in self._provisional.take_reentered(generation):
            self._resolve(node)

    def drop_absent(self, cid: str, reason: Reason) -> None:
        """Remove a member of this node that the store did not have when it left."""
        record = self.own.absent(cid)
        if record is not None:
            self._remove_members([MemberLeave(cid, record.member.user, reason)])

    def drop_leaving(self) -> None:
        """Remove members that the store was told have left: the channel will not bring their leaves any more."""
        self._remove_members(self.own.leaves())

    def show_entered(self, records: Sequence[Record]) -> None:
        """Add members of this node that the store has: the channel will not bring their joins any more."""
        if records:
            self._apply(Delta(self.feed.generation, self.feed.seq, 0, 0, joins=tuple(records)))

    def _remove_members(self, leaves: Sequence[MemberLeave]) -> None:
        if leaves:
            self._apply(Delta(self.feed.generation, self.feed.seq, 0, 0, leaves=tuple(leaves)))

    def is_provisional(self, cid: str) -> bool:
        """Tell whether nothing has been heard of a member since the store was found not to have it."""
        return cid in self._provisional or (self._crowd is not None and self._crowd.is_held)

    def _note_reentered(self, event: NodeReentered) -> None:
        """Remove members of a node that the store still lacks: the node has entered again all that it has."""
        if self.feed.loading:
            self._provisional.keep_reentered(event.node, event.generation)
        elif event.generation in {0, self.feed.generation}:
            self._resolve(event.node)

    def _resolve(self, node: str) -> None:
        self._remove_members(self._provisional.resolve(node))

    def resolve_provisional(self) -> None:
        """Remove provisional members, except those whose connections are here."""
        self._remove_members(self._provisional.resolve())
        if self._crowd is not None and self._crowd.release():
            self.channel.note_change()
        if self._gone.stop_passing_over():
            self.feed.load()

    def tell_stale(self, *, stale: bool) -> None:
        """Tell the watchers whether other nodes' members may be out of date, if that has changed."""
        if stale != self.stale:
            self.stale = stale
            self.channel.announce(Stale(self.room, stale))

    def _apply(self, delta: Delta) -> None:
        if self._crowd is not None:
            self._apply_to_crowd(self._crowd, delta)
            return
        self._watched.note_delta(delta)
        for leave in delta.leaves:
            known = self.roster.records.get(leave.cid)
            if known is not None and (leave.reason == "timeout" or known.epoch > 1):
                self._gone.remember(leave, known.epoch)
        self.roster.apply(delta)
        self.own.note_delta(delta)
        self._gone.forget_returned(delta.joins)
        full_max = self.rules.full_max
        self.crowded = self.members > (full_max * UNCROWDED if self.crowded else full_max)
        self.channel.note_change()

    def _apply_to_crowd(self, crowd: Crowd, delta: Delta) -> None:
        """Keep of a delta what concerns members of this node whose connections are gone, and who may still speak."""
        records = self.roster.records
        for leave in delta.leaves:
            if leave.reason == "timeout":
                self._gone.remember(leave, EPOCH_MAX)
            self.own.forget_leave(leave.cid)
            self.roster.remove(leave.cid)
        for record in delta.joins:
            self.roster.remove(record.member.cid)
            self.keep_absent(record)
        for change in delta.updates:
            if change.cid in records:
                records[change.cid] = changed(records[change.cid], change)
        self._gone.forget_returned(delta.joins)
        crowd.note_joins(delta.joins)
        self.channel.note_change()

    def keep_absent(self, record: Record) -> None:
        """Keep a member of this node whose connection is gone where the roster is not held; else it is there."""
        if self._crowd is not None and self.own.is_of_absent(record):
            self.roster.put(record)

    @property
    def members(self) -> int:
        """The number of members."""
        return len(self.roster.records) if self._crowd is None else self._crowd.counts.members

    @property
    def users(self) -> int:
        """The number of users among them."""
        return len(self.roster.users) if self._crowd is None else self._crowd.counts.users

    @property
    def holds_roster(self) -> bool:
        """Whether the view knows all members: not of a crowded room, whose pages come from the store."""
        return self._crowd is None

    def take_diff(self) -> Diff | None:
        """Return what changed since the last call, if anything did; of a crowded room without its members."""
        if self._crowd is not None and self._has_thinned_out(self._crowd):
            self.feed.load()
        if self._crowd is not None:
            self._recounted, self._crowd.changed = self._recounted or self._crowd.changed, False
        recounted, self._recounted = self._recounted, False
        net = self._watched.take_net_change()
        if not net and not recounted:
            return None
        return Diff(self.room, self.feed.seq, self.members, self.users, net.joins, net.updates, net.leaves)

    def _has_thinned_out(self, crowd: Crowd) -> bool:
        """Tell whether a room has so few members that the roster is to be read."""
        if crowd.is_held or self.feed.is_isolated or self.feed.loading:
            return False
        return self.members <= int(self.rules.full_max * UNCROWDED)

    def count(self) -> Count:
        """Return the numbers as they are."""
        return Count(self.room, self.members, self.users)

    def page(self, cursor: str | None, limit: int) -> Page:
        """Return a page of what watchers have been told; the diffs that follow begin where it stands."""
        return self._watched.page(cursor, limit)

    def sync(self, mode: Mode, *, you: str | None, request_id: int | None) -> Sync:
        """Return the room as it is, for one watcher; `you` is its cid if it is a member."""
        if mode == "full" and self._crowd is not None:
            mode = "count"
        members, cursor = self._watched.first_page(you) if mode == "full" else ([], None)
        count, users = self._watched.counts() if mode == "full" else (self.members, self.users)
        return Sync(
            room=self.room,
            mode=mode,
            you=you is not None,
            seq=self.feed.seq,
            count=count,
            users=users,
            members=members,
            cursor=cursor,
            stale=self.stale,
            id=request_id,
        )


def _count(records: Sequence[Record]) -> tuple[int, int]:
    return len(records), len({record.member.user for record in records})


def _is_older(record: Record, known: Record | None, *, earlier_stays: bool) -> bool:
    """Tell whether a record is an earlier one of a member than is known; its node writes the later one again.

    `earlier_stays` says that the store may have lost its last writes: then it may also be of an earlier stay of the
    connection in the room. Leased members have no node: what the store says of them holds.
    """
    if known is None or record.is_leased:
        return False
    if record.member.at != known.member.at:
        return earlier_stays and (record.epoch, record.member.at) < (known.epoch, known.member.at)
    return (record.epoch, record.member.v) < (known.epoch, known.member.v)
