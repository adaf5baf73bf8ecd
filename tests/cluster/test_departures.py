"""What an isolated node remembers of who has left, until the shared store knows."""

from collections.abc import Callable

import msgspec
import pytest

from presence_server.bus.memory import MemoryBus
from presence_server.cluster import store
from presence_server.cluster.store import ClusterStore
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import BROKEN, Done, Enter, Leave, Linger, Operation, Outcome
from presence_server.presence.redis import QueuedOperation
from presence_server.presence.roster import LEASE_NODE, Delta, Record, Snapshot
from presence_server.protocol.messages import Member
from tests.support.handclock import HandClock

HEARTBEAT_MS = 100
EMPTY = msgspec.Raw(b"{}")
X = Record(Member("x", "ann", EMPTY, EMPTY, 1, 1), 1, "A")
Sent = tuple[str, Operation, Callable[[Outcome], None]]


class Unanswered:
    """A shared store that answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        self.sent.append((room, operation, done))

    def take(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent


class Isolation:
    """A node's store, isolated when it is told so, with a member in a room."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.shared = Unanswered()
        self.isolated = False
        bus: MemoryBus[Delta] = MemoryBus()
        self.store = ClusterStore(
            lambda _: self.shared,  # type: ignore[arg-type, return-value]  # as much of it as departures need
            PresenceMemoryStore(bus, self.clock, ttl_ms=1_000, claim_ms=1_000),
            node="A",
            clock=self.clock,
            heartbeat_ms=HEARTBEAT_MS,
            is_isolated=lambda _: self.isolated,
        )
        self.isolate([X])

    def isolate(self, records: list[Record]) -> None:
        self.isolated = True

        def begin(room: str) -> None:
            self.store.begin_in_memory(room, records)

        self.store.isolate(["lobby"], begin, lambda room, cid: True)

    def replay(self) -> list[Sent]:
        self.isolated = False
        self.store.replay()
        return self.shared.take()


def test_a_departure_that_was_not_answered_is_told_again_after_the_next_isolation() -> None:
    node = Isolation()
    node.store.carry_out("lobby", Leave("x", 1, "kicked", fence=True), lambda _: None)
    ((room, operation, done),) = node.replay()
    node.isolate([])
    node.store.carry_out_in_memory(room, QueuedOperation(operation, 1, done))
    assert [operation for _, operation, _ in node.replay()] == [Leave("x", 1, "kicked", fence=True)]


def test_a_departure_that_was_answered_is_not_told_again() -> None:
    node = Isolation()
    node.store.carry_out("lobby", Leave("x", 1, "left"), lambda _: None)
    ((_, _, done),) = node.replay()
    done(Done(1, 1))
    node.isolate([])
    assert node.replay() == []


def test_of_a_grace_the_rest_is_told_and_a_heartbeat_at_least() -> None:
    node = Isolation()
    node.store.carry_out("lobby", Linger("x", 1, 1_000, "timeout"), lambda _: None)
    node.clock.move(300)
    ((_, operation, _),) = node.replay()
    assert operation == Linger("x", 1, 700, "timeout")
    node.isolate([])
    node.clock.move(5_000)
    ((_, operation, _),) = node.replay()
    assert operation == Linger("x", 1, HEARTBEAT_MS, "timeout")


def test_who_never_was_in_the_shared_store_does_not_depart_from_it() -> None:
    node = Isolation()
    node.store.carry_out("lobby", Leave("stranger", 1, "left"), lambda _: None)
    assert node.replay() == []


def test_a_resumed_connection_may_be_in_the_shared_store_and_so_many_of_them_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "MAYBE_SHARED_MAX", 3)
    node = Isolation()
    node.store.carry_out("lobby", Linger("x", 1, 1_000, "timeout"), lambda _: None)
    for cid in ("a", "b", "c"):
        node.store.carry_out("lobby", Enter(cid, "u", EMPTY, None, 2, "A", 1_000), lambda _: None)
        node.store.carry_out("lobby", Leave(cid, 2, "left"), lambda _: None)
    told = [operation for _, operation, _ in node.replay()]
    assert [operation.cid for operation in told if isinstance(operation, Leave | Linger)] == ["x", "a", "b"]


def test_what_a_backend_asked_for_is_refused_where_the_store_did_not_answer_and_nobody_is_told() -> None:
    node = Isolation()
    lease = Enter("sensor", "s", EMPTY, None, 1, LEASE_NODE, 1_000)
    for operation in (Leave("x", None, "kicked", fence=True), lease):
        outcomes: list[Outcome] = []
        node.store.carry_out_in_memory("lobby", QueuedOperation(operation, 1, outcomes.append))
        assert outcomes == [BROKEN]
    snapshots: list[Snapshot] = []
    node.store.snapshot("lobby", snapshots.append)
    assert [snapshot.records for snapshot in snapshots] == [(X,)]
