"""A room's roster, the deltas that move it, and the net change between two moments. Pure data."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from presence_server.protocol.messages import Document, Member, MemberLeave, MemberUpdate, Reason

MEMBER_BYTES: Final = 100
"""The most bytes that an entry of a roster takes as JSON beside its documents and names."""
CHARACTER_BYTES: Final = 6
"""The most bytes that a character of a name takes as JSON."""

LEASE_NODE: Final = "api"
"""The value of `node` in records of members that a backend entered; see `Record.is_leased`."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A member as a store holds it.

    `epoch` fences: it counts how often the connection was resumed, so that a record with a lower one is of an
    earlier life of the same connection. `node` is where the connection is.
    """

    member: Member
    epoch: int
    node: str

    @property
    def is_leased(self) -> bool:
        """Whether a backend entered the member: no node has it, and it lives by its lease alone."""
        return self.node == LEASE_NODE


class Change(msgspec.Struct, frozen=True, gc=False):
    """A member's state and version after an update."""

    cid: str
    epoch: int
    v: int
    state: Document


class Delta(msgspec.Struct, frozen=True):
    """One step of a room: what changed from `seq` - 1 to `seq`, and the numbers after it.

    A join of a cid that is there replaces its record: it was resumed, or left and came back. A cid appears
    at most once.
    """

    generation: int
    seq: int
    count: int
    users: int
    joins: tuple[Record, ...] = ()
    updates: tuple[Change, ...] = ()
    leaves: tuple[MemberLeave, ...] = ()
    due_ms: int = 0
    """The time at which the next member may expire, by the store's clock; 0: unknown."""

    @property
    def changes(self) -> bool:
        """Whether anything has changed; what has not says only when the next member may expire."""
        return bool(self.joins or self.updates or self.leaves)


class MemberCounts(NamedTuple):
    """How many members a room has, and how many users they are of."""

    members: int
    users: int


class Snapshot(msgspec.Struct, frozen=True):
    """A whole room at one moment.

    `counts` are there in place of the records where the room has more members than were asked for.
    """

    generation: int
    seq: int
    records: tuple[Record, ...]
    counts: MemberCounts | None = None


class NetChange(msgspec.Struct, frozen=True):
    """The changes of several deltas that clients are sent at once: each cid at most once."""

    joins: tuple[Member, ...] = ()
    updates: tuple[MemberUpdate, ...] = ()
    leaves: tuple[MemberLeave, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.joins or self.updates or self.leaves)


class Roster:
    """The members of one room, and how many connections each user has."""

    __slots__ = ("records", "users")

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: dict[str, Record] = {}
        self.users: dict[str, int] = {}
        for record in records:
            self.put(record)

    def put(self, record: Record) -> None:
        """Add or replace a member."""
        member = record.member
        before = self.records.get(member.cid)
        if before is None or before.member.user != member.user:
            if before is not None:
                self._forget_user(before.member.user)
            self.users[member.user] = self.users.get(member.user, 0) + 1
        self.records[member.cid] = record

    def clear(self) -> None:
        """Remove all members. Who holds `records` sees that."""
        self.records.clear()
        self.users.clear()

    def remove(self, cid: str) -> None:
        """Remove a member, if it is there."""
        record = self.records.pop(cid, None)
        if record is not None:
            self._forget_user(record.member.user)

    def _forget_user(self, user: str) -> None:
        if self.users[user] == 1:
            del self.users[user]
        else:
            self.users[user] -= 1

    def apply(self, delta: Delta) -> None:
        """Move by one delta. A change at or below the member's (epoch, v) is old news and changes nothing."""
        for record in delta.joins:
            self.put(record)
        for change in delta.updates:
            record_before = self.records.get(change.cid)
            if record_before is not None and (change.epoch, change.v) > (
                record_before.epoch,
                record_before.member.v,
            ):
                self.records[change.cid] = changed(record_before, change)
        for leave in delta.leaves:
            self.remove(leave.cid)


def json_bytes(member: Member) -> int:
    """Return how long an entry of a roster is as JSON, at most."""
    names = len(member.cid) + CHARACTER_BYTES * len(member.user)
    return MEMBER_BYTES + names + len(member.info) + len(member.state)


def changed(record: Record, change: Change) -> Record:
    """Return the record after an update."""
    before = record.member
    member = Member(before.cid, before.user, before.info, change.state, change.v, before.at)
    return Record(member, change.epoch, record.node)


class ChangeBatch:
    """The changes of a roster since the batch was opened, kept as the records of before.

    The net change is a comparison of before and now, so that a member which joined and left meanwhile was
    never there, and one that left and came back is one replacing join.
    """

    __slots__ = ("_before", "_reasons")

    def __init__(self) -> None:
        self._before: dict[str, Record | None] = {}
        self._reasons: dict[str, Reason] = {}

    def note_delta(self, roster: Roster, delta: Delta) -> None:
        """Remember what `delta`, about to be applied, will change."""
        before = self._before
        for record in delta.joins:
            cid = record.member.cid
            before.setdefault(cid, roster.records.get(cid))
        for change in delta.updates:
            before.setdefault(change.cid, roster.records.get(change.cid))
        for leave in delta.leaves:
            before.setdefault(leave.cid, roster.records.get(leave.cid))
            self._reasons[leave.cid] = leave.reason

    def __bool__(self) -> bool:
        return bool(self._before)

    def records_before(self, roster: Roster) -> Mapping[str, Record]:
        """Return the roster as it was when the batch was opened: what clients have been told."""
        if not self:
            return roster.records
        records = dict(roster.records)
        for cid, before in self._before.items():
            if before is None:
                records.pop(cid, None)
            else:
                records[cid] = before
        return records

    def record_before(self, roster: Roster, cid: str) -> Record | None:
        """Return the record of `cid` that clients have been told, None where there was none."""
        return self._before[cid] if cid in self._before else roster.records.get(cid)

    def take_net_change(self, roster: Roster) -> NetChange:
        """Return the net change up to now, and begin anew."""
        joins: list[Member] = []
        updates: list[MemberUpdate] = []
        leaves: list[MemberLeave] = []
        for cid, record_before in self._before.items():
            before = None if record_before is None else record_before.member
            record = roster.records.get(cid)
            now = None if record is None else record.member
            if now is None:
                if before is not None:
                    leaves.append(MemberLeave(cid, before.user, self._reasons.get(cid, "timeout")))
            elif before is None or not leads_to(before, now):
                joins.append(now)
            elif before.v != now.v:
                updates.append(MemberUpdate(cid, now.state, now.v))
        self._before.clear()
        self._reasons.clear()
        return NetChange(tuple(joins), tuple(updates), tuple(leaves))


def same_membership(one: Member, other: Member) -> bool:
    """Tell whether two entries of one cid differ by no more than updates."""
    return one.at == other.at and one.user == other.user and one.info == other.info


def leads_to(before: Member, after: Member) -> bool:
    """Tell whether updates alone, or nothing at all, lead from one entry of a cid to the other."""
    if not same_membership(before, after):
        return False
    return before.v < after.v or (before.v == after.v and before.state == after.state)


def difference(roster: Roster, snapshot: Snapshot) -> Delta:
    """Return the delta that turns `roster` into `snapshot`, up or down in generation and seq."""
    now = {record.member.cid: record for record in snapshot.records}
    joins: list[Record] = []
    updates: list[Change] = []
    for cid, record in now.items():
        before = roster.records.get(cid)
        if before is None or before.epoch != record.epoch or not leads_to(before.member, record.member):
            joins.append(record)
        elif before.member.v != record.member.v:
            updates.append(Change(cid, record.epoch, record.member.v, record.member.state))
    leaves = tuple(
        MemberLeave(cid, record.member.user, "timeout")
        for cid, record in roster.records.items()
        if cid not in now
    )
    users: Mapping[str, int] = Roster(snapshot.records).users
    return Delta(
        snapshot.generation, snapshot.seq, len(now), len(users), tuple(joins), tuple(updates), leaves
    )
