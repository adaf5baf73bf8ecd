"""The presence store of a process on its own: the pure state of each room, and a queue of what is due."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from presence_server.bus.port import Publisher
from presence_server.clock import Clock
from presence_server.ids import new_generation
from presence_server.presence.operations import Operation, Outcome
from presence_server.presence.port import CLAIM_CHANGED, Claim, MemberPage, everything
from presence_server.presence.roster import Delta, Record, Snapshot
from presence_server.presence.state import RoomState

ENDED: Final = -1
"""The epoch of a claim whose tokens were ended."""
CLAIMS_MAX: Final = 1_000_000
"""Claims remembered, and users whose tokens were ended; the oldest go first. One that is forgotten lets an old token
win again."""
Kept = TypeVar("Kept")


class PresenceMemoryStore:
    """Presence in this process's memory, announced on `bus`; see `PresenceStore` for what it promises.

    `ttl_ms` is the presence TTL, `claim_ms` how long a resume token can be used.
    """

    def __init__(self, bus: Publisher[Delta], clock: Clock, *, ttl_ms: int, claim_ms: int) -> None:
        self._bus = bus
        self._clock = clock
        self._fence_ms = 2 * ttl_ms
        self._claim_ms = claim_ms
        self._rooms: dict[str, RoomState] = {}
        # Every room with a deadline is in this heap at or before that deadline.
        self._due: list[tuple[int, str]] = []
        self._queued_ms: dict[str, int] = {}
        self._claims: dict[str, tuple[Claim, int]] = {}
        self._user_ends: dict[str, tuple[int, int]] = {}

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Carry out one operation, announce it, and answer at once."""
        state = self._rooms.get(room)
        if state is None:
            state = self._rooms[room] = RoomState(new_generation(), self._fence_ms)
        (outcome,), deltas = state.run((operation,), self._clock.now_ms(), self._clock.wall_ms())
        self._announce_and_queue(room, state, deltas)
        done(outcome)

    def snapshot(self, room: str, done: Callable[[Snapshot], None], *, members_max: int = 0) -> None:
        """Answer with the room as it is; one that does not exist has generation 0."""
        state = self._rooms.get(room)
        now_ms = self._clock.now_ms()
        done(Snapshot(0, 0, ()) if state is None else state.snapshot(now_ms, members_max=members_max))

    def page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        """Answer with some members, by cid."""
        state = self._rooms.get(room)
        if state is None:
            done(MemberPage([], None))
        else:
            done(MemberPage(*state.page_in_order(cursor, limit, bytes_max, self._clock.now_ms())))

    def begin(self, rosters: Mapping[str, Iterable[Record]]) -> dict[str, int]:
        """Begin rooms anew with members that only an operation can end; return each one's generation."""
        for room, records in rosters.items():
            self._rooms[room] = RoomState(new_generation(), self._fence_ms)
            self._queued_ms.pop(room, None)
            members = list(records)
            self._rooms[room].adopt(members)
            for record in members:
                self._know_claim(record.member.cid, Claim(record.epoch, record.node, record.epoch - 1))
        return {room: self._rooms[room].generation for room in rosters}

    def _know_claim(self, cid: str, claim: Claim) -> None:
        """Let the next claim of a resumed connection be above the epoch of its members; a fresh one needs nothing."""
        claimed = self._claimed(cid).epoch
        if claimed != ENDED and claim.epoch > max(claimed, 1):
            self._keep(self._claims, cid, claim)

    def _claimed(self, cid: str) -> Claim:
        claim, _ = self._claims.get(cid, (Claim(), 0))
        return claim

    def drop_rooms(self, is_concerned: Callable[[str], bool]) -> None:
        """Forget rooms."""
        for room in [room for room in self._rooms if is_concerned(room)]:
            del self._rooms[room]
            self._queued_ms.pop(room, None)

    def clear(self, is_concerned: Callable[[str], bool] = everything) -> None:
        """Forget rooms, claims by their cid, and users whose tokens were ended."""
        self.drop_rooms(is_concerned)
        for cid in [cid for cid in self._claims if is_concerned(cid)]:
            del self._claims[cid]
        for user in [user for user in self._user_ends if is_concerned(user)]:
            del self._user_ends[user]

    def forget(self, room: str) -> None:
        """Do nothing: the store keeps nothing for watchers alone."""

    def note_delta(self, room: str, delta: Delta) -> None:
        """Do nothing: the store knows what is due."""

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
        """Answer the next epoch of `cid`."""
        del issuer
        claimed = self._claimed(cid).epoch
        if claimed == ENDED:
            done(0)
            return
        if known is not None and claimed != known:
            done(CLAIM_CHANGED)
            return
        claimed = max(claimed, epoch) + 1
        self._keep(self._claims, cid, Claim(claimed, node, epoch))
        done(claimed)

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        """Answer the last claim of `cid`."""
        claim = self._claimed(cid)
        done(Claim() if claim.epoch == ENDED else claim)

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        """Refuse the claims of `cid` from now on."""
        self._keep(self._claims, cid, Claim(ENDED))
        done()

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        """Keep when the tokens of `user` were ended."""
        self._keep(self._user_ends, user, at)
        done()

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        """Answer when the tokens of `user` were ended."""
        at, _ = self._user_ends.get(user, (0, 0))
        done(at)

    def sweep_expired(self) -> None:
        """Announce everybody who has expired, and forget what nobody can ask for any more."""
        now_ms = self._clock.now_ms()
        while self._due and self._due[0][0] <= now_ms:
            queued_ms, room = heapq.heappop(self._due)
            if self._queued_ms.get(room) != queued_ms:
                continue
            del self._queued_ms[room]
            state = self._rooms[room]
            self._announce_and_queue(room, state, state.evict_expired(now_ms))
        _let_go(self._claims, now_ms)
        _let_go(self._user_ends, now_ms)

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rooms)

    def room(self, room: str) -> RoomState | None:
        """Return a room's state, None where there is none."""
        return self._rooms.get(room)

    def _keep(self, kept: dict[str, tuple[Kept, int]], key: str, what: Kept) -> None:
        """Keep something for as long as a resume token can be used."""
        kept.pop(key, None)
        kept[key] = (what, self._clock.now_ms() + self._claim_ms)
        if len(kept) > CLAIMS_MAX:
            del kept[next(iter(kept))]

    def _announce_and_queue(self, room: str, state: RoomState, deltas: Sequence[Delta]) -> None:
        """Announce, queue the room for its next expiry, drop it when nothing is left."""
        if not state:
            self._rooms.pop(room, None)
            self._queued_ms.pop(room, None)
        else:
            due_ms = state.next_due_ms
            queued_ms = self._queued_ms.get(room)
            if due_ms is not None and (queued_ms is None or due_ms < queued_ms):
                self._queued_ms[room] = due_ms
                heapq.heappush(self._due, (due_ms, room))
        for delta in deltas:
            if delta.changes:
                self._bus.publish(room, delta)


def _let_go(kept: dict[str, tuple[Kept, int]], now_ms: int) -> None:
    """Forget what is kept no longer; what was kept last is last."""
    while kept:
        oldest = next(iter(kept))
        if kept[oldest][1] > now_ms:
            break
        del kept[oldest]
