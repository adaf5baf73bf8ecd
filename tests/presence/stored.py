"""A presence store of any kind as the contract's tests drive it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from presence_server.bus.memory import MemoryBus
from presence_server.clock import Clock
from presence_server.presence.operations import Done, Operation, Outcome
from presence_server.presence.port import PresenceStore
from presence_server.presence.redis import PresenceRedisStore, QueuedOperation, Timing
from presence_server.presence.roster import Delta, Roster, Snapshot
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.keys import Keys
from tests.support.operations import done


def in_contact(
    batcher: PipelineBatcher,
    keys: Keys,
    clock: Clock,
    timing: Timing,
    *,
    hold_rest_ms: Callable[[], int] = lambda: 0,
    is_isolated: Callable[[], bool] = lambda: False,
    failed: Callable[[str, QueuedOperation], None] | None = None,
    answered: Callable[[str, int, int], None] = lambda room, generation, seq: None,
) -> PresenceRedisStore:
    """Make the store of a node that never loses contact."""

    def lose(*_: object) -> None:
        raise AssertionError("the server is there, and yet something was not answered")

    return PresenceRedisStore(
        batcher,
        keys,
        clock,
        timing,
        "node-1",
        hold_rest_ms=lambda _: hold_rest_ms(),
        is_isolated=lambda _: is_isolated(),
        failed=failed or lose,
        mark_away=lose if failed is None else lambda *_: None,
        unanswered=lose,
        answered=answered,
    )


@dataclass
class Stored:
    """A store, the bus that it announces on, and how its time is moved.

    `happened` is what it announced and answered, in order.
    """

    port: PresenceStore
    bus: MemoryBus[Delta]
    move: Callable[[int], None]
    rooms_kept: Callable[[], int]
    happened: list[tuple[str, Delta | Outcome]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listen("lobby")

    def listen(self, room: str) -> None:
        """Hear what is announced about a room, as one does who watches it."""
        self.bus.subscribe(room, lambda delta: self.happened.append((room, delta)), lambda: None)
        self.port.snapshot(room, lambda _: None)

    def carry_out(self, operation: Operation, room: str = "lobby") -> Outcome:
        """Carry out one operation and return its answer."""
        answers: list[Outcome] = []

        def answered(outcome: Outcome) -> None:
            answers.append(outcome)
            self.happened.append((room, outcome))

        self.port.carry_out(room, operation, answered)
        (answer,) = answers
        return answer

    def do(self, *operations: Operation, room: str = "lobby") -> Done:
        """Carry out operations, none of which may be refused."""
        for operation in operations:
            outcome = done(self.carry_out(operation, room))
        return outcome

    def snapshot(self, room: str = "lobby") -> Snapshot:
        """Read a room."""
        snapshots: list[Snapshot] = []
        self.port.snapshot(room, snapshots.append)
        (snapshot,) = snapshots
        return snapshot

    def cids(self, room: str = "lobby") -> set[str]:
        """Return who is in a room."""
        return {record.member.cid for record in self.snapshot(room).records}

    def claim(self, cid: str, epoch: int, known: int | None = None) -> int:
        """Claim the next epoch."""
        epochs: list[int] = []
        self.port.claim(cid, epoch, "node-1", "node-2", epochs.append, known=known)
        (claimed,) = epochs
        return claimed

    def pass_ms(self, ms: int) -> None:
        """Let time pass, then sweep."""
        self.move(ms)
        self.port.sweep_expired()

    def deltas(self, room: str = "lobby") -> list[Delta]:
        """Return what was announced about a room."""
        return [what for where, what in self.happened if where == room and isinstance(what, Delta)]

    def followed(self, room: str = "lobby") -> Roster:
        """Return the roster of one who knows nothing but the announcements."""
        roster = Roster()
        for delta in self.deltas(room):
            roster.apply(delta)
        return roster
