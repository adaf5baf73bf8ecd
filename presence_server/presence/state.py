"""The rules of a room's presence: a pure state machine of operations and time.

Every operation evicts what has expired, applies itself, and yields one delta with the next seq, so that state
and announcement are one step. `now_ms` is the store's clock. The members that an operation names are exempt
from its own eviction: their node has just proven to be alive.
"""

import heapq
from collections.abc import Iterable, Set
from itertools import takewhile
from typing import Final, NamedTuple

import msgspec

from presence_server.presence.roster import Change, Delta, Record, Roster, Snapshot, changed, same_membership
from presence_server.protocol.messages import Document, Member, MemberLeave, Reason

EVICTIONS_MAX: Final = 100
"""Evictions of one operation; a store that shares a thread with others must not stop for a whole room."""
NEVER_MS: Final = 2**62
ANY_EPOCH: Final = -1
"""Whatever epoch the member has: of a leave that a backend asks for, which does not know it."""
LEASED: Final = "api"
"""The node of members that a backend entered: no node has them, they live by their lease alone."""
EMPTY_STATE: Final = msgspec.Raw(b"{}")


class Enter(msgspec.Struct, frozen=True):
    """Become a member, or, with a higher epoch, go on being one.

    `state` None keeps what is there; `members_max` 0 is no limit. A member that its store has lost brings the
    `v` and `at` that it had; 0: it is new.
    """

    cid: str
    user: str
    info: Document
    state: Document | None
    epoch: int
    node: str
    ttl_ms: int
    members_max: int = 0
    v: int = 0
    at: int = 0


class Leave(msgspec.Struct, frozen=True):
    """Stop being a member, at once. After a kick (`fence`) the same epoch may not come back; a leased one may.

    With `ANY_EPOCH` a kick is a removal: no life of the connection is entered until one of them has left itself,
    which says that its client knows.
    """

    cid: str
    epoch: int
    reason: Reason
    fence: bool = False


class Linger(msgspec.Struct, frozen=True):
    """Stop being a member `grace_ms` from now, unless a higher epoch enters before."""

    cid: str
    epoch: int
    grace_ms: int
    reason: Reason


class Beat(msgspec.Struct, frozen=True):
    """Say that members, cid by epoch, are alive for `ttl_ms` more. A beat does not undo a linger."""

    epochs: dict[str, int]
    ttl_ms: int


Operation = Enter | Change | Leave | Linger | Beat


class Done(msgspec.Struct, frozen=True):
    """The operation was carried out; the room is at `seq`.

    `record` is the member as it is now (after `Enter` and `Change`), or was (after a `Leave` with `ANY_EPOCH`).
    `unknown` are the beaten cids that
    are not members with that epoch: their node should enter them again, and will hear if it may not.
    `created` says that `Enter` made a member, and did not find it.
    """

    generation: int
    seq: int
    record: Record | None = None
    unknown: tuple[str, ...] = ()
    created: bool = False


class Refused(msgspec.Struct, frozen=True):
    """The operation changed nothing.

    `fenced`: a later life of the connection has the membership, or it was kicked. `removed`: a backend has removed
    the connection from the room, and its client does not know. `full`: the room has its
    greatest number of members. `missing`: there is no such member. `taken`: the member is a connection, which only
    its node may enter. `broken`: the store cannot; the log says why.
    """

    why: str


FENCED: Final = Refused("fenced")
REMOVED: Final = Refused("removed")
FULL: Final = Refused("full")
MISSING: Final = Refused("missing")
TAKEN: Final = Refused("taken")
BROKEN: Final = Refused("broken")
Outcome = Done | Refused


class Deadline(NamedTuple):
    """When a member ends unless it is heard of, and with which reason.

    `queued_ms` is where the member stands in the queue of what is due, at or before `at_ms`.
    """

    at_ms: int
    reason: Reason
    lingering: bool
    queued_ms: int


class Fence(NamedTuple):
    """The lowest epoch that may act, and until when that is remembered; `removed`: none may enter."""

    epoch: int
    until_ms: int
    removed: bool = False


class Effect(NamedTuple):
    """What an operation changes in the roster."""

    joins: tuple[Record, ...] = ()
    updates: tuple[Change, ...] = ()
    leaves: tuple[MemberLeave, ...] = ()


NO_EFFECT: Final = Effect()


class RoomState:
    """One room as the store has it. Fences are remembered for `fence_ms`."""

    __slots__ = ("_deadlines", "_due", "_fence_ms", "_fences", "generation", "roster", "seq")

    def __init__(self, generation: int, fence_ms: int) -> None:
        self.generation = generation
        self.seq = 0
        self.roster = Roster()
        self._fence_ms = fence_ms
        self._deadlines: dict[str, Deadline] = {}
        self._due: list[tuple[int, str]] = []
        self._fences: dict[str, Fence] = {}

    def __bool__(self) -> bool:
        return bool(self.roster.records or self._fences)

    @property
    def next_due_ms(self) -> int | None:
        """When something may have expired, never later than it does; None: nothing will."""
        due_ms = self._due[0][0] if self._due else None
        for fence in self._fences.values():  # oldest first, and all are kept equally long
            return fence.until_ms if due_ms is None else min(due_ms, fence.until_ms)
        return due_ms

    def carry_out(self, operation: Operation, now_ms: int, wall_ms: int) -> tuple[Outcome, Delta | None]:
        """Evict, apply, and return the outcome with the delta to announce, if anything changed.

        `wall_ms` is the time since 1970, for a new member's `at`.
        """
        if isinstance(operation, Beat):
            evicted = self._evict(now_ms, operation.epochs.keys())
            unknown, revived = self._beat(operation, now_ms)
            delta = self._step(Effect(joins=revived), evicted)
            return Done(self.generation, self.seq, unknown=unknown), delta
        evicted = self._evict(now_ms, {operation.cid})
        before = self.roster.records.get(operation.cid)
        created = isinstance(operation, Enter) and before is None
        effect = self._apply(operation, now_ms, wall_ms)
        if isinstance(effect, Refused):
            return effect, self._step(NO_EFFECT, evicted)
        delta = self._step(effect, evicted)
        record = self.roster.records.get(operation.cid)
        if isinstance(operation, Leave) and operation.epoch == ANY_EPOCH:
            record = before
        return Done(self.generation, self.seq, record, created=created), delta

    def adopt(self, records: Iterable[Record]) -> None:
        """Take over members whose own time is not known: they stay until an operation ends them."""
        for record in records:
            self.roster.put(record)
            self._deadlines[record.member.cid] = Deadline(
                NEVER_MS, "timeout", lingering=False, queued_ms=NEVER_MS
            )

    def sweep(self, now_ms: int) -> Delta | None:
        """Evict at most `EVICTIONS_MAX` of the expired; repeat while `next_due_ms` is not in the future."""
        for cid in list(takewhile(lambda cid: self._fences[cid].until_ms <= now_ms, self._fences)):
            del self._fences[cid]
        return self._step(NO_EFFECT, self._evict(now_ms, frozenset()))

    def snapshot(self, now_ms: int) -> Snapshot:
        """Return everybody who is there at `now_ms`, never an expired member."""
        records = self.roster.records.items()
        alive = tuple(record for cid, record in records if self._deadlines[cid].at_ms > now_ms)
        return Snapshot(self.generation, self.seq, alive)

    def _step(self, effect: Effect, evicted: tuple[MemberLeave, ...]) -> Delta | None:
        """Apply an effect; return the delta of it and of what was evicted before."""
        if effect == NO_EFFECT and not evicted:
            return None
        self.seq += 1
        for leave in effect.leaves:
            del self._deadlines[leave.cid]
        leaves = evicted + effect.leaves
        delta = Delta(self.generation, self.seq, 0, 0, effect.joins, effect.updates, leaves)
        self.roster.apply(delta)
        return msgspec.structs.replace(delta, count=len(self.roster.records), users=len(self.roster.users))

    def _apply(
        self, operation: Enter | Change | Leave | Linger, now_ms: int, wall_ms: int
    ) -> Effect | Refused:
        cid = operation.cid
        present = self.roster.records.get(cid)
        fence = self._fences.get(cid)
        lowest = max(present.epoch if present else 0, fence.epoch if fence else 0)
        if isinstance(operation, Leave):
            return self._leave(operation, present, lowest, now_ms)
        if operation.epoch < lowest:
            return FENCED
        if isinstance(operation, Enter):
            removed = fence is not None and fence.removed
            return REMOVED if removed else self._enter(operation, present, now_ms, wall_ms)
        if present is None:
            return MISSING
        if isinstance(operation, Linger):
            self._expect(cid, now_ms + operation.grace_ms, operation.reason, lingering=True)
            return NO_EFFECT
        return Effect(updates=(operation,)) if operation.v > present.member.v else NO_EFFECT

    def _enter(self, enter: Enter, present: Record | None, now_ms: int, wall_ms: int) -> Effect | Refused:
        if present is None:
            if enter.members_max and len(self.roster.records) >= enter.members_max:
                return FULL
            state = EMPTY_STATE if enter.state is None else enter.state
            member = Member(enter.cid, enter.user, enter.info, state, enter.v or 1, enter.at or wall_ms)
            effect = Effect(joins=(Record(member, enter.epoch, enter.node),))
        elif enter.node == LEASED != present.node:
            return TAKEN
        elif enter.epoch == present.epoch and self._deadlines[enter.cid].lingering:
            return FENCED
        else:
            effect = _go_on(enter, present)
            if self._deadlines[enter.cid].at_ms <= now_ms and not effect.joins:
                effect = Effect(joins=(changed(present, effect.updates[0]) if effect.updates else present,))
        self._expect(enter.cid, now_ms + enter.ttl_ms, "timeout", lingering=False)
        return effect

    def _leave(self, leave: Leave, present: Record | None, lowest: int, now_ms: int) -> Effect | Refused:
        epoch = lowest if leave.epoch == ANY_EPOCH and present is not None else leave.epoch
        if epoch < lowest or epoch == ANY_EPOCH:
            return MISSING if epoch == ANY_EPOCH else FENCED
        # A connection may leave and come back, an earlier life of it may not; after a kick nor may this one.
        fencing = leave.fence and (present is None or present.node != LEASED)
        removed = fencing and leave.epoch == ANY_EPOCH
        lowest_after = epoch + 1 if fencing and not removed else epoch
        self._fences.pop(leave.cid, None)
        if lowest_after > 1 or removed:
            self._fences[leave.cid] = Fence(lowest_after, now_ms + self._fence_ms, removed)
        if present is None:
            return MISSING
        return Effect(leaves=(MemberLeave(leave.cid, present.member.user, leave.reason),))

    def _beat(self, beat: Beat, now_ms: int) -> tuple[tuple[str, ...], tuple[Record, ...]]:
        """Renew members; return who is unknown, and who was over time but not evicted yet.

        The latter are announced: a snapshot read meanwhile does not have them.
        """
        unknown = []
        revived = []
        for cid, epoch in beat.epochs.items():
            present = self.roster.records.get(cid)
            if present is None or epoch < present.epoch:
                unknown.append(cid)
            elif not self._deadlines[cid].lingering:
                if self._deadlines[cid].at_ms <= now_ms:
                    revived.append(present)
                self._expect(cid, now_ms + beat.ttl_ms, "timeout", lingering=False)
        return tuple(unknown), tuple(revived)

    def _expect(self, cid: str, at_ms: int, reason: Reason, *, lingering: bool) -> None:
        before = self._deadlines.get(cid)
        queued_ms = at_ms if before is None else min(before.queued_ms, at_ms)
        self._deadlines[cid] = Deadline(at_ms, reason, lingering, queued_ms)
        if before is None or queued_ms < before.queued_ms:
            heapq.heappush(self._due, (queued_ms, cid))

    def _evict(self, now_ms: int, exempt: Set[str]) -> tuple[MemberLeave, ...]:
        leaves: list[MemberLeave] = []
        put_back: list[tuple[int, str]] = []
        while self._due and self._due[0][0] <= now_ms and len(leaves) < EVICTIONS_MAX:
            queued_ms, cid = heapq.heappop(self._due)
            deadline = self._deadlines.get(cid)
            if deadline is None or deadline.queued_ms != queued_ms:
                continue
            if deadline.at_ms > now_ms or cid in exempt:
                self._deadlines[cid] = deadline._replace(queued_ms=deadline.at_ms)
                put_back.append((deadline.at_ms, cid))
            else:
                leaves.append(MemberLeave(cid, self.roster.records[cid].member.user, deadline.reason))
                self.roster.remove(cid)
                del self._deadlines[cid]
        for entry in put_back:
            heapq.heappush(self._due, entry)
        return tuple(leaves)


def _go_on(enter: Enter, present: Record) -> Effect:
    """Return what changes for a member that is there already: often nothing, and never `at`."""
    before = present.member
    state = before.state if enter.state is None else enter.state
    v = max(enter.v, before.v if state == before.state else before.v + 1)
    member = Member(before.cid, enter.user, enter.info, state, v, before.at)
    if (enter.epoch, enter.node) != (present.epoch, present.node) or not same_membership(before, member):
        return Effect(joins=(Record(member, enter.epoch, enter.node),))
    if v != before.v:
        return Effect(updates=(Change(before.cid, enter.epoch, v, state),))
    return NO_EFFECT
