"""One room's state on a clock that is moved by hand, and what it announced."""

from collections.abc import Sequence

from presence_server.presence.operations import Done, Operation, Outcome
from presence_server.presence.roster import Delta, Record, Roster
from presence_server.presence.state import RoomState
from tests.support.handclock import HandClock
from tests.support.operations import done

FENCE_MS = 60_000


class Room:
    """A `RoomState`; `deltas` is everything that it announced, `follower` a roster that follows it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.state = RoomState(generation=7, fence_ms=FENCE_MS)
        self.deltas: list[Delta] = []
        self.follower = Roster()

    def carry_out(self, operation: Operation) -> Outcome:
        """Carry out one operation now."""
        (outcome,), deltas = self.state.run((operation,), self.clock.now_ms(), self.clock.wall_ms())
        self._announced(deltas)
        return outcome

    def do(self, *operations: Operation) -> Done:
        """Carry out operations, none of which may be refused; return the last one's outcome."""
        for operation in operations:
            outcome = done(self.carry_out(operation))
        return outcome

    def sweep(self) -> Delta | None:
        """Evict once."""
        deltas = self.state.evict_expired(self.clock.now_ms())
        self._announced(deltas)
        return deltas[0] if deltas else None

    def sweep_all(self) -> None:
        """Evict until nothing is due."""
        while self.state.next_due_ms is not None and self.state.next_due_ms <= self.clock.now_ms():
            self.sweep()

    def pass_ms(self, ms: int) -> None:
        """Let time pass, and evict what is due then."""
        self.clock.move(ms)
        self.sweep_all()

    @property
    def cids(self) -> set[str]:
        """Who is there, whether expired or not."""
        return set(self.state.roster.records)

    @property
    def last(self) -> Delta:
        """What was announced last."""
        return self.deltas[-1]

    def record(self, cid: str) -> Record:
        """Return a member's record."""
        return self.state.roster.records[cid]

    def _announced(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            if delta.changes:
                self.deltas.append(delta)
            self.follower.apply(delta)
