"""The rules of a room's presence: a pure state machine of operations and time.

A call evicts what has expired, applies its operations, and yields a delta with the next seq, so that state and
announcement are one step. `now_ms` is the store's clock. The members that a call names are exempt from its own
eviction: their node has just proven to be alive. The scripts in `lua/` do the same, and are held to this.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import takewhile
from typing import Final, NamedTuple

import msgspec

from presence_server.presence.deadlines import Deadlines, RoomTime
from presence_server.presence.operations import (
    FENCED,
    FULL,
    MISSING,
    REMOVED,
    TAKEN,
    Beat,
    Done,
    Enter,
    Leave,
    Linger,
    Operation,
    Outcome,
    Ran,
    Refused,
    Sent,
)
from presence_server.presence.paging import CidIndex, page
from presence_server.presence.roster import (
    Change,
    Delta,
    MemberCounts,
    Record,
    Roster,
    Snapshot,
    changed,
    same_membership,
)
from presence_server.protocol.messages import Member, MemberLeave, Reason

EVICTIONS_MAX: Final = 100
"""Evictions of one call; a store that shares a thread with others must not stop for a whole room."""
DELTA_BYTES_MAX: Final = 32_768
"""A delta that has more is announced, and what follows goes into the next one."""
CHANGE_BYTES: Final = 64
"""What a change counts in a delta beside its documents."""
EMPTY_STATE: Final = msgspec.Raw(b"{}")


class Fence(NamedTuple):
    """The lowest epoch that may act, and until when that is remembered; `removed`: none may enter."""

    epoch: int
    until_ms: int
    removed: bool = False


class Step:
    """The changes of a call that it has not announced yet, and the deltas that it has announced."""

    __slots__ = ("bytes", "deltas", "due_forward", "joins", "leaves", "updates")

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.due_forward = False
        """Whether the first deadline has come forward: watchers sleep until the one that they know."""
        self.begin()

    def begin(self) -> None:
        """Begin the next delta."""
        self.joins: list[Record] = []
        self.updates: list[Change] = []
        self.leaves: list[MemberLeave] = []
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.joins or self.updates or self.leaves)


class RoomState:
    """One room as the store has it. Fences are remembered for `fence_ms`."""

    __slots__ = (
        "_deadlines",
        "_exists",
        "_fence_ms",
        "_fences",
        "_hold_until_ms",
        "_order",
        "_time",
        "generation",
        "roster",
        "seq",
    )

    def __init__(self, generation: int, fence_ms: int) -> None:
        self.generation = generation
        self.seq = 0
        self.roster = Roster()
        self._fence_ms = fence_ms
        self._time = RoomTime()
        self._hold_until_ms = 0
        self._deadlines = Deadlines()
        self._fences: dict[str, Fence] = {}
        self._order = CidIndex()
        self._exists = False

    def __bool__(self) -> bool:
        return bool(self.roster.records or self._fences)

    # --- where the room is ---

    @property
    def position(self) -> tuple[int, int]:
        """Return generation and seq; zeros for a room that nobody has ever been in."""
        return (self.generation, self.seq) if self._exists else (0, 0)

    @property
    def member_counts(self) -> MemberCounts:
        """Return how many members and users the room has, those that have expired and are not evicted among them."""
        return MemberCounts(len(self.roster.records), len(self.roster.users))

    @property
    def due_ms(self) -> int | None:
        """The deadline of the next member, and not before that of the room's hold; None: there is none."""
        first_ms = self._deadlines.first_ms()
        return None if first_ms is None else max(first_ms, self._hold_until_ms) - self._time.ahead_ms

    @property
    def next_due_ms(self) -> int | None:
        """The time at which a member or a fence is to be swept; None: there is none."""
        due_ms = self.due_ms
        for fence in self._fences.values():  # oldest first, and all are kept equally long
            until_ms = fence.until_ms - self._time.ahead_ms
            return until_ms if due_ms is None else min(due_ms, until_ms)
        return due_ms

    @property
    def hold_until_ms(self) -> int:
        """Until when the room evicts nobody; 0 or a time that has passed: it does."""
        return max(self._hold_until_ms - self._time.ahead_ms, 0)

    @property
    def last_end_ms(self) -> int | None:
        """The deadline of the last member; None: there is none. A store keeps the room for a while after that."""
        last_ms = self._deadlines.last_ms()
        return None if last_ms is None else last_ms - self._time.ahead_ms

    # --- calls ---

    def run(
        self, operations: Sequence[Operation], now_ms: int, wall_ms: int, sent: Sent | None = None
    ) -> Ran:
        """Evict, apply each operation, and return what came of them; none: a sweep of members.

        `wall_ms` is the time since 1970, for a new member's `at`. `sent` None: the call had no way to go.
        """
        time_ms = self._arrive(now_ms, sent)
        step = Step()
        self._evict(time_ms, {cid for operation in operations for cid in _named(operation)}, step)
        results = [self._apply(operation, time_ms, wall_ms, step) for operation in operations]
        self._announce(step)
        self._exists = self._exists or bool(self)
        generation, seq = self.position
        outcomes: list[Outcome] = [
            result
            if isinstance(result, Refused)
            else msgspec.structs.replace(result, generation=generation, seq=seq)
            for result in results
        ]
        return Ran(outcomes, step.deltas)

    def evict_expired(self, now_ms: int, sent: Sent | None = None) -> list[Delta]:
        """Evict at most `EVICTIONS_MAX` of the expired; repeat while `next_due_ms` is not in the future."""
        self._purge_fences(self._arrive(now_ms, sent))
        return self.run((), now_ms, 0, sent).deltas

    def snapshot(self, now_ms: int, sent: Sent | None = None, *, members_max: int = 0) -> Snapshot:
        """Return everybody who is there at `now_ms`, never an expired member unless the room holds.

        Of a room with more than `members_max` it has the numbers alone; 0: of none.
        """
        time_ms = self._arrive(now_ms, sent)
        if 0 < members_max < len(self.roster.records):
            return Snapshot(*self.position, (), self.member_counts)
        alive = tuple(self.roster.records[cid] for cid in self._alive(self.roster.records, time_ms))
        return Snapshot(*self.position, alive)

    def counts(self, now_ms: int, sent: Sent | None = None) -> tuple[int, int, list[Delta]]:
        """Evict, and return how many members and users there are, with what is to be announced."""
        deltas = self.run((), now_ms, 0, sent).deltas
        time_ms = self._arrive(now_ms, sent)
        return sum(1 for _ in self._alive(self.roster.records, time_ms)), len(self.roster.users), deltas

    def page_by_scan(
        self, after: str, limit: int, now_ms: int, sent: Sent | None = None
    ) -> tuple[list[Record], str | None]:
        """Return members by cid, those after one ("": from the first), and the cid that the next page goes on from.

        It is None where that was all.
        """
        time_ms = self._arrive(now_ms, sent)
        following = (cid for cid in self.roster.records if cid > after)
        cids = nsmallest(limit + 1, self._alive(following, time_ms))
        records = [self.roster.records[cid] for cid in cids[:limit]]
        return records, cids[limit - 1] if len(cids) > limit else None

    def page_in_order(
        self, cursor: str, limit: int, bytes_max: int, now_ms: int
    ) -> tuple[list[Record], str | None]:
        """Return members by cid, at most `limit` and `bytes_max` of them, and the cursor of the next page.

        In place of `page_by_scan`, for a room that is in this process: what it takes does not grow with the room.
        """
        time_ms = self._time.read(now_ms)
        after = cursor.partition(":")[2] if cursor.startswith("after:") else None
        records = self.roster.records
        following = self._order.after(after, lambda: records)
        alive = (records[cid].member for cid in self._alive(following, time_ms))
        members, last = page(alive, limit, bytes_max)
        return [records[member.cid] for member in members], last and f"after:{last}"

    def adopt(self, records: Iterable[Record]) -> None:
        """Take over members whose own time is not known: they stay until an operation ends them."""
        for record in records:
            self.roster.put(record)
            self._order.add(record.member.cid)
            self._deadlines.set_never(record.member.cid)
        self._exists = self._exists or bool(self)

    # --- time ---

    def _arrive(self, now_ms: int, sent: Sent | None) -> int:
        """Return the room's time, and hold where the call says that somebody could not be heard."""
        time_ms = self._time.read(now_ms)
        if sent is not None:
            if sent.hold_rest_ms > 0:
                self._hold_until_ms = max(self._hold_until_ms, time_ms + sent.hold_rest_ms)
            if now_ms - sent.at_ms > sent.late_ms:
                self._hold_until_ms = max(self._hold_until_ms, time_ms + sent.hold_ms)
        return time_ms

    def _holds(self, time_ms: int) -> bool:
        return self._hold_until_ms > time_ms

    def _alive(self, cids: Iterable[str], time_ms: int) -> Iterator[str]:
        """Return those of some members who have not expired; all of them while the room holds."""
        holds = self._holds(time_ms)
        return (cid for cid in cids if holds or self._deadlines[cid].at_ms > time_ms)

    def _evict(self, time_ms: int, exempt: set[str], step: Step) -> None:
        if not self._holds(time_ms):
            for cid, deadline in self._deadlines.take_due(time_ms, exempt, EVICTIONS_MAX):
                self._remove(cid, deadline.reason, step)

    # --- what is announced ---

    def _remove(self, cid: str, reason: Reason, step: Step) -> None:
        """Remove a member that has no deadline any more. Leaves alone never end a delta: they are bounded."""
        user = self.roster.records[cid].member.user
        self.roster.remove(cid)
        self._order.remove(cid)
        step.leaves.append(MemberLeave(cid, user, reason))
        step.bytes += len(user.encode()) + CHANGE_BYTES

    def _put(self, record: Record, step: Step) -> None:
        """Add or replace a member, which is news."""
        self.roster.put(record)
        self._order.add(record.member.cid)
        step.joins.append(record)
        self._count_bytes(step, len(record.member.info) + len(record.member.state))

    def _update(self, change: Change, present: Record, step: Step) -> None:
        """Give a member a new state."""
        self.roster.put(changed(present, change))
        step.updates.append(change)
        self._count_bytes(step, len(change.state))

    def _count_bytes(self, step: Step, size: int) -> None:
        step.bytes += size + CHANGE_BYTES
        if step.bytes > DELTA_BYTES_MAX:
            self._announce(step)

    def _announce(self, step: Step) -> None:
        """Make a delta of what has changed since the last one."""
        if step:
            self.seq += 1
        elif not step.due_forward:
            return
        step.due_forward = False
        step.deltas.append(
            Delta(
                self.generation,
                self.seq,
                len(self.roster.records),
                len(self.roster.users),
                tuple(step.joins),
                tuple(step.updates),
                tuple(step.leaves),
                self.due_ms or 0,
            )
        )
        step.begin()

    # --- operations ---

    def _apply(self, operation: Operation, time_ms: int, wall_ms: int, step: Step) -> Done | Refused:
        """Carry out one operation; its position is filled in at the end of the call."""
        if isinstance(operation, Beat):
            return Done(0, 0, unknown=self._beat(operation, time_ms, step))
        cid = operation.cid
        present = self.roster.records.get(cid)
        fence = self._fences.get(cid)
        if fence is not None and fence.until_ms <= time_ms:
            fence = None
        lowest = max(present.epoch if present else 0, fence.epoch if fence else 0)
        if isinstance(operation, Leave):
            return self._leave(operation, present, lowest, time_ms, step)
        if operation.epoch < lowest:
            return FENCED
        if isinstance(operation, Enter):
            removed = fence is not None and fence.removed
            return REMOVED if removed else self._enter(operation, present, time_ms, wall_ms, step)
        # A life that has not entered is not there; its epoch here would keep it from reopening what lingers.
        if present is None or (isinstance(operation, Change) and operation.epoch > present.epoch):
            return MISSING
        return self._change_or_linger(operation, present, time_ms, step)

    def _change_or_linger(
        self, operation: Change | Linger, present: Record, time_ms: int, step: Step
    ) -> Done:
        cid = operation.cid
        if isinstance(operation, Linger):
            ends_ms = time_ms + operation.grace_ms
            step.due_forward = step.due_forward or ends_ms < self._deadlines[cid].at_ms
            self._deadlines.set_at(cid, ends_ms, operation.reason, lingering=True)
            return Done(0, 0)
        if operation.v > present.member.v:
            self._update(operation, present, step)
        return Done(0, 0, self.roster.records[cid])

    def _enter(
        self, enter: Enter, present: Record | None, time_ms: int, wall_ms: int, step: Step
    ) -> Done | Refused:
        cid = enter.cid
        if enter.known_in == self.generation:
            enter = msgspec.structs.replace(enter, v=0, at=0)
        if present is None:
            if enter.members_max and len(self.roster.records) >= enter.members_max:
                return FULL
            state = EMPTY_STATE if enter.state is None else enter.state
            member = Member(cid, enter.user, enter.info, state, enter.v or 1, enter.at or wall_ms)
            news: Record | Change | None = Record(member, enter.epoch, enter.node)
        elif enter.is_lease and not present.is_leased:
            return TAKEN
        elif enter.epoch == present.epoch and self._deadlines[cid].lingering:
            return FENCED
        else:
            news = _go_on(enter, present)
            if self._deadlines[cid].at_ms <= time_ms and not isinstance(news, Record):
                # A snapshot that was read meanwhile does not have it.
                news = present if news is None else changed(present, news)
        self._fences.pop(cid, None)  # the member's own epoch says all that it did
        self._deadlines.set_at(cid, time_ms + enter.ttl_ms, "timeout", lingering=False)
        if isinstance(news, Record):
            self._put(news, step)
        elif news is not None and present is not None:
            self._update(news, present, step)
        return Done(0, 0, self.roster.records[cid], created=present is None)

    def _leave(
        self, leave: Leave, present: Record | None, lowest: int, time_ms: int, step: Step
    ) -> Done | Refused:
        if leave.epoch is not None:
            epoch = leave.epoch
        elif present is not None:
            epoch = lowest
        else:
            return MISSING
        if epoch < lowest:
            return FENCED
        # A connection may leave and come back, an earlier life of it may not; after a kick nor may this one.
        fencing = leave.fence and (present is None or not present.is_leased)
        removed = fencing and leave.is_by_backend
        lowest_after = epoch + 1 if fencing and not removed else epoch
        self._fences.pop(leave.cid, None)
        if lowest_after > 1 or removed:
            self._purge_fences(time_ms)
            self._fences[leave.cid] = Fence(lowest_after, time_ms + self._fence_ms, removed)
        if present is None:
            return MISSING
        self._deadlines.cancel_deadline(leave.cid)
        self._remove(leave.cid, leave.reason, step)
        return Done(0, 0, present if leave.is_by_backend else None)

    def _beat(self, beat: Beat, time_ms: int, step: Step) -> tuple[str, ...]:
        """Renew members; return the cids that are unknown.

        Who was over time and is still there is announced: a snapshot that was read meanwhile does not have it.
        """
        unknown = []
        for cid, epoch in beat.epochs.items():
            present = self.roster.records.get(cid)
            if present is None or epoch < present.epoch:
                unknown.append(cid)
            elif not self._deadlines[cid].lingering:
                late = self._deadlines[cid].at_ms <= time_ms
                self._deadlines.set_at(cid, time_ms + beat.ttl_ms, "timeout", lingering=False)
                if late:
                    self._put(present, step)
        return tuple(unknown)

    def _purge_fences(self, time_ms: int) -> None:
        for cid in list(takewhile(lambda cid: self._fences[cid].until_ms <= time_ms, self._fences)):
            del self._fences[cid]


def _named(operation: Operation) -> Iterable[str]:
    return operation.epochs if isinstance(operation, Beat) else (operation.cid,)


def _go_on(enter: Enter, present: Record) -> Record | Change | None:
    """Return what changes for a member that is there already: often nothing.

    `at` changes only where the store has an earlier stay of the connection, because it lost the writes since.
    """
    before = present.member
    state = before.state if enter.state is None else enter.state
    v = max(enter.v, before.v if state == before.state else before.v + 1)
    member = Member(before.cid, enter.user, enter.info, state, v, max(enter.at, before.at))
    if (enter.epoch, enter.node) != (present.epoch, present.node) or not same_membership(before, member):
        return Record(member, enter.epoch, enter.node)
    return Change(before.cid, enter.epoch, v, state) if v != before.v else None
