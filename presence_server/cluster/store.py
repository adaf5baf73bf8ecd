"""Presence over many nodes: the shared store, and this node's own memory while it is isolated.

An isolated node's clients join, update and leave as before, on a store in memory that begins with what the node knew,
and nobody else's member is judged. Who left meanwhile is told to the shared store on return.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

import msgspec

from presence_server.clock import Clock
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import BROKEN, Beat, Enter, Leave, Linger, Operation, Outcome
from presence_server.presence.port import Claim, MemberPage, PresenceStore, everything
from presence_server.presence.redis import PresenceRedisStore, QueuedOperation
from presence_server.presence.roster import Delta, Record, Snapshot
from presence_server.redis_io.keys import name_tag

MAYBE_SHARED_MAX: Final = 100_000
"""The most members of which it is noted that the shared store may have them: it is not told that others have left, so
that they expire there with their leases."""


class NotBegun(NamedTuple):
    """An isolated room that memory does not have yet.

    `begin(room)` has memory begin with it, and `has_member(room, cid)` tells whether memory would then know of `cid`.
    """

    begin: Callable[[str], None]
    has_member: Callable[[str, str], bool]


class Departure(NamedTuple):
    """The leave of a member while its node was isolated, and its time by the node's clock."""

    operation: Leave | Linger
    since_ms: int

    def at(self, now_ms: int, least_ms: int) -> Leave | Linger:
        """Return what is to be said of it at `now_ms`: of a grace period the rest, but `least_ms`.

        Another node that was isolated, too, may have the connection by now, and come back a moment later than this one.
        """
        if isinstance(self.operation, Leave):
            return self.operation
        cid, epoch, grace_ms, reason = msgspec.structs.astuple(self.operation)
        return Linger(cid, epoch, max(self.since_ms + grace_ms - now_ms, least_ms), reason)


class ClusterStore:
    """The presence store of a node among others; see `PresenceStore` for what it promises.

    `shared(tag)` is the shared store of a room, a cid or a user's tag, and `is_isolated(tag)` tells whether it is out
    of reach and memory is asked in its place.
    """

    def __init__(
        self,
        shared: Callable[[str], PresenceRedisStore],
        memory: PresenceMemoryStore,
        *,
        node: str,
        clock: Clock,
        heartbeat_ms: int,
        is_isolated: Callable[[str], bool],
    ) -> None:
        self._shared = shared
        self._memory = memory
        self._node = node
        self._clock = clock
        self._heartbeat_ms = heartbeat_ms
        self._is_isolated = is_isolated
        self._maybe_shared: set[tuple[str, str]] = set()
        """Members of this node, by room and cid, that the shared store may have: it is told only of their leaving."""
        self._departed: dict[tuple[str, str], Departure] = {}
        self._not_begun: dict[str, NotBegun] = {}
        self._held_reads: dict[str, list[Callable[[], None]]] = {}
        """Rooms of which nothing is read before this node's members have been entered, and who waits to read them."""

    def _store_of_room(self, room: str) -> PresenceStore:
        if not self._is_isolated(room):
            return self._shared(room)
        self.ensure_begun(room)
        return self._memory

    def _store_of_claim(self, cid: str) -> PresenceStore:
        """Return where a claim is kept; memory has to know the epochs of a connection's members."""
        if not self._is_isolated(cid):
            return self._shared(cid)
        for room, not_begun in list(self._not_begun.items()):
            if not_begun.has_member(room, cid):
                self.ensure_begun(room)
        return self._memory

    def _store_of_user(self, user: str) -> PresenceStore:
        """Return where it is kept when the tokens of a user ended."""
        tag = name_tag(user)
        return self._memory if self._is_isolated(tag) else self._shared(tag)

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Carry out one operation where there is a store to do it."""
        store = self._store_of_room(room)
        if store is self._memory:
            self._note_departure(room, operation)
        store.carry_out(room, operation, done)

    def snapshot(self, room: str, done: Callable[[Snapshot], None], *, members_max: int = 0) -> None:
        """Read a whole room."""
        if room in self._held_reads:
            self._held_reads[room].append(partial(self.snapshot, room, done, members_max=members_max))
        else:
            self._store_of_room(room).snapshot(room, done, members_max=members_max)

    def page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        """Read some members; of a room that is out of reach this node has its own alone, which are no page of it."""
        if self._is_isolated(room):
            done(None)
        else:
            self._shared(room).page(room, cursor, limit, bytes_max, done)

    def hold_reads(self, rooms: Iterable[str]) -> None:
        """Read none of these rooms until `release_reads`: the shared store may lack members of this node."""
        for room in rooms:
            self._held_reads.setdefault(room, [])

    def release_reads(self, room: str) -> None:
        """Read a room, for those who wait for it: this node's members have been sent."""
        for read in self._held_reads.pop(room, ()):
            read()

    def claim(
        self,
        cid: str,
        epoch: int,
        node: str,
        issuer: str,
        done: Callable[[int], None],
        *,
        known: int | None = None,
    ) -> None:
        """Answer the epoch for a resumed connection."""
        self._store_of_claim(cid).claim(cid, epoch, node, issuer, done, known=known)

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        """Answer the last claim of `cid`."""
        self._store_of_claim(cid).read_claim(cid, done)

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        """Let no resume token of `cid` be claimed; while isolated, not on this node."""
        self._store_of_claim(cid).end_tokens(cid, done)

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        """Keep when the tokens of `user` were ended."""
        self._store_of_user(user).end_user_tokens(user, at, done)

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        """Answer when the tokens of `user` were ended; an isolated node knows of those that ended on it."""
        self._store_of_user(user).read_user_end(user, done)

    def note_delta(self, room: str, delta: Delta) -> None:
        """Take note of a delta of a watched room."""
        if not self._is_isolated(room):
            self._shared(room).note_delta(room, delta)

    def sweep_expired(self) -> None:
        """Announce members that expired in memory; the backend sweeps the shared stores."""
        self._memory.sweep_expired()

    def forget(self, room: str) -> None:
        """Stop minding a room that nobody here watches."""
        self._shared(room).forget(room)

    def ask(self, room: str, done: Callable[[Outcome], None]) -> None:
        """Ask the shared store where a room is; views hear the answer."""
        self._shared(room).carry_out(room, Beat({}, 0), done)

    def isolate(
        self,
        rooms: Iterable[str],
        begin: Callable[[str], None],
        has_member: Callable[[str, str], bool],
        is_concerned: Callable[[str], bool] = everything,
    ) -> None:
        """Go on in memory with all rooms for which `is_concerned`.

        `begin(room)` is called once for each of `rooms`, to call `begin_in_memory`: before memory is asked about the
        room, or about the claim of a connection of which `has_member(room, cid)`, or by `ensure_begun`.
        """
        self._drop_rooms(is_concerned)
        self._maybe_shared = {member for member in self._maybe_shared if not is_concerned(member[0])}
        self._not_begun.update(dict.fromkeys(rooms, NotBegun(begin, has_member)))

    def begin_in_memory(self, room: str, records: Iterable[Record]) -> int:
        """Have memory go on with the members of a room; return its generation there."""
        records = list(records)
        self._maybe_shared |= {(room, record.member.cid) for record in records if record.node == self._node}
        return self._memory.begin({room: records})[room]

    def ensure_begun(self, room: str) -> None:
        """Have memory begin with an isolated room, unless it has."""
        not_begun = self._not_begun.pop(room, None)
        if not_begun is not None:
            not_begun.begin(room)

    def _drop_rooms(self, is_concerned: Callable[[str], bool]) -> None:
        self._memory.drop_rooms(is_concerned)
        for rooms in (self._not_begun, self._held_reads):
            for room in [room for room in rooms if is_concerned(room)]:
                del rooms[room]

    def leave_memory(self, is_concerned: Callable[[str], bool]) -> None:
        """Ask the shared store about rooms from now on."""
        self._drop_rooms(is_concerned)

    def forget_isolation(self, is_concerned: Callable[[str], bool]) -> None:
        """Keep nothing of the isolation of rooms and claims: the shared store has been told."""
        self._memory.clear(is_concerned)
        self._maybe_shared = {member for member in self._maybe_shared if not is_concerned(member[0])}

    def replay(self, is_concerned: Callable[[str], bool] = everything) -> None:
        """Tell the shared store who left meanwhile; what is not answered is told again after the next isolation."""
        now_ms = self._clock.now_ms()
        for (room, cid), departure in list(self._departed.items()):
            if is_concerned(room):
                done = partial(self._note_departure_answer, (room, cid), departure)
                self._shared(room).carry_out(room, departure.at(now_ms, self._heartbeat_ms), done)

    def _note_departure_answer(self, member: tuple[str, str], departure: Departure, outcome: Outcome) -> None:
        """Forget a departure that the shared store knows of; an answer of this node's memory does not say that."""
        del outcome
        if not self._is_isolated(member[0]) and self._departed.get(member) is departure:
            del self._departed[member]

    def carry_out_in_memory(self, room: str, request: QueuedOperation) -> None:
        """Carry out in memory what the shared store did not answer: it may or may not have carried it out.

        What a backend asked for is refused: it is told that the store is away, and watchers are not told otherwise.
        """
        operation = request.operation
        if _is_by_backend(operation):
            request.done(BROKEN)
            return
        if isinstance(operation, Enter | Leave | Linger):
            self._maybe_shared.add((room, operation.cid))
        self.carry_out(room, operation, request.done)

    def ask_again(self, ask: Callable[[PresenceStore], None]) -> None:
        """Ask this node what the shared store did not answer."""
        ask(self)

    def _note_departure(self, room: str, operation: Operation) -> None:
        if isinstance(operation, Beat):
            return
        member = (room, operation.cid)
        if isinstance(operation, Leave | Linger) and member in self._maybe_shared:
            self._departed[member] = Departure(operation, self._clock.now_ms())
        elif isinstance(operation, Enter):
            if operation.epoch > 1 and len(self._maybe_shared) < MAYBE_SHARED_MAX:
                self._maybe_shared.add(member)  # an earlier life of it may have entered by another node
            # A member that lingered goes on. One that came back after a leave is another: the leave is sent.
            departure = self._departed.get(member)
            if departure is not None and isinstance(departure.operation, Linger):
                del self._departed[member]


class LocalDelivery:
    """The bus of an isolated node's memory store: `deliver(room, delta)` gives a delta to this node's own views."""

    def __init__(self, deliver: Callable[[str, Delta], None]) -> None:
        self._deliver = deliver

    def publish(self, room: str, event: Delta, sent: Callable[[], None] | None = None) -> None:
        """Deliver to this node."""
        self._deliver(room, event)
        if sent is not None:
            sent()


def _is_by_backend(operation: Operation) -> bool:
    """Tell whether an operation is a backend's: the removal of a member, or a lease."""
    if isinstance(operation, Leave):
        return operation.is_by_backend
    return isinstance(operation, Enter) and operation.is_lease
