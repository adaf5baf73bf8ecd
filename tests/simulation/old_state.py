"""Stands between the scripts' new calls and the present RoomState, until the latter has them itself."""

from collections.abc import Sequence, Set
from typing import NamedTuple

from presence_server.presence.roster import Change, Delta, Record, Snapshot
from presence_server.presence.state import ANY_EPOCH, Beat, Done, Enter, Leave, Operation, Outcome, Refused
from presence_server.presence.state import RoomState as State
from presence_server.protocol.messages import MemberLeave


class Sent(NamedTuple):
    at_ms: int
    late_ms: int
    hold_ms: int
    hold_rest_ms: int = 0


class Ran(NamedTuple):
    outcomes: list[Outcome]
    deltas: list[Delta]


class RoomState(State):
    __slots__ = ("exists", "hold_until_ms")

    def __init__(self, generation: int, fence_ms: int) -> None:
        super().__init__(generation, fence_ms)
        self.hold_until_ms = 0
        self.exists = False

    @property
    def position(self) -> tuple[int, int]:
        return self.generation, self.seq

    @property
    def due_ms(self) -> int | None:
        return min((d.at_ms for d in self._deadlines.values()), default=None)

    @property
    def last_end_ms(self) -> int | None:
        return max((d.at_ms for d in self._deadlines.values()), default=None)

    def _evict(self, now_ms: int, exempt: Set[str]) -> tuple[MemberLeave, ...]:
        return () if self.hold_until_ms > now_ms else super()._evict(now_ms, exempt)

    def run(self, operations: Sequence[Operation], now_ms: int, wall_ms: int, sent: Sent) -> Ran:
        if sent.hold_rest_ms:
            self.hold_until_ms = max(self.hold_until_ms, now_ms + sent.hold_rest_ms)
        named = {c for o in operations for c in (o.epochs if isinstance(o, Beat) else [o.cid])}
        start = self.seq
        leaves = self._evict(now_ms, named)
        joins: tuple[Record, ...] = ()
        updates: tuple[Change, ...] = ()
        outcomes: list[Outcome] = []
        for operation in operations:
            if isinstance(operation, Beat):
                unknown, revived = self._beat(operation, now_ms)
                joins += revived
                outcomes.append(Done(self.generation, 0, unknown=unknown))
                continue
            before = self.roster.records.get(operation.cid)
            effect = self._apply(operation, now_ms, wall_ms)
            if isinstance(effect, Refused):
                outcomes.append(effect)
                continue
            delta = self._step(effect, ())
            if delta:
                joins, updates, leaves = joins + delta.joins, updates + delta.updates, leaves + delta.leaves
            record = self.roster.records.get(operation.cid)
            if isinstance(operation, Leave):
                record = before if operation.epoch == ANY_EPOCH else None
            created = isinstance(operation, Enter) and before is None
            outcomes.append(Done(self.generation, 0, record, created=created))
        deltas: list[Delta] = []
        self.seq = start
        if joins or updates or leaves:
            self.seq += 1
            deltas = [
                Delta(
                    self.generation,
                    self.seq,
                    len(self.roster.records),
                    len(self.roster.users),
                    joins,
                    updates,
                    leaves,
                    self.due_ms or 0,
                )
            ]
        return Ran(outcomes, deltas)

    def sweep(  # type: ignore[override] # takes its way too
        self, now_ms: int, sent: Sent
    ) -> list[Delta]:
        return self.run((), now_ms, 0, sent).deltas

    def snapshot(self, now_ms: int, sent: Sent | None = None) -> Snapshot:
        del sent
        return super().snapshot(now_ms)

    def counts(self, now_ms: int, sent: Sent) -> tuple[int, int, list[Delta]]:
        deltas = self.run((), now_ms, 0, sent).deltas
        return len(self.roster.records), len(self.roster.users), deltas

    def page(self, after: str, limit: int, now_ms: int, sent: Sent) -> tuple[list[Record], str | None]:
        del now_ms, sent
        cids = sorted(c for c in self.roster.records if c > after)
        return [self.roster.records[c] for c in cids[:limit]], cids[limit - 1] if len(cids) > limit else None
