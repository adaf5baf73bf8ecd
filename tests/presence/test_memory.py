"""What only the store of a process on its own must see to: its own memory."""

import pytest

from presence_server.bus.memory import MemoryBus
from presence_server.presence import memory
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.roster import Delta, Record, Snapshot
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Member
from tests.support.handclock import HandClock
from tests.support.operations import TTL_MS, enter, kick, leave

CLAIM_MS = 100_000


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bus() -> MemoryBus[Delta]:
    return MemoryBus()


@pytest.fixture
def store(clock: HandClock, bus: MemoryBus[Delta]) -> PresenceMemoryStore:
    return PresenceMemoryStore(bus, clock, ttl_ms=TTL_MS, claim_ms=CLAIM_MS)


def test_a_room_is_gone_with_its_last_member(store: PresenceMemoryStore) -> None:
    store.carry_out("lobby", enter("a"), lambda _: None)
    assert len(store) == 1
    store.carry_out("lobby", leave("a"), lambda _: None)
    assert len(store) == 0


def test_a_room_with_a_fence_stays_until_it_ends(store: PresenceMemoryStore, clock: HandClock) -> None:
    store.carry_out("lobby", enter("a"), lambda _: None)
    store.carry_out("lobby", kick("a"), lambda _: None)
    assert len(store) == 1
    clock.move(2 * TTL_MS)
    store.sweep_expired()
    assert len(store) == 0


def test_rooms_that_come_and_go_leave_no_queue(store: PresenceMemoryStore, clock: HandClock) -> None:
    for _ in range(1_000):
        store.carry_out("lobby", enter("a"), lambda _: None)
        store.carry_out("lobby", leave("a"), lambda _: None)
        clock.move(100)
        store.sweep_expired()
    assert len(store._due) <= TTL_MS // 100 + 1
    clock.move(TTL_MS)
    store.sweep_expired()
    assert store._due == []
    assert store._queued_ms == {}


def test_claims_are_forgotten_when_no_token_can_name_them(
    store: PresenceMemoryStore, clock: HandClock
) -> None:
    store.claim("a", 1, "node-1", "node-2", lambda _: None)
    clock.move(CLAIM_MS - 1)
    store.claim("b", 1, "node-1", "node-2", lambda _: None)
    clock.move(1)
    store.sweep_expired()
    assert set(store._claims) == {"b"}
    clock.move(CLAIM_MS)
    store.sweep_expired()
    assert store._claims == {}


def test_a_claim_made_again_lives_as_long_as_the_newer_token(
    store: PresenceMemoryStore, clock: HandClock
) -> None:
    store.claim("a", 1, "node-1", "node-2", lambda _: None)
    store.claim("b", 1, "node-1", "node-2", lambda _: None)
    clock.move(CLAIM_MS - 1)
    store.claim("a", 2, "node-1", "node-2", lambda _: None)
    clock.move(1)
    store.sweep_expired()
    assert set(store._claims) == {"a"}


def test_claims_are_bounded(store: PresenceMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLAIMS_MAX", 3)
    for cid in "abcd":
        store.claim(cid, 1, "node-1", "node-2", lambda _: None)
    assert list(store._claims) == ["b", "c", "d"]


def test_a_listener_may_read_while_it_is_told(store: PresenceMemoryStore, bus: MemoryBus[Delta]) -> None:
    seen: list[Snapshot] = []
    bus.subscribe("lobby", lambda _: store.snapshot("lobby", seen.append), lambda: None)
    store.carry_out("lobby", enter("a"), lambda _: None)
    store.carry_out("lobby", leave("a"), lambda _: None)
    assert [len(snapshot.records) for snapshot in seen] == [1, 0]


def test_claims_of_an_isolated_node_begin_above_the_epochs_of_the_members_that_it_knows(
    store: PresenceMemoryStore,
) -> None:
    claimed: list[int] = []
    resumed = Record(Member("a", "ann", document({}), document({}), 1, 1), 3, "node-2")
    store.begin({"lobby": [resumed], "hall": [resumed]})
    store.claim("a", 1, "node-1", "node-2", claimed.append)
    store.begin({"lobby": [resumed]})
    store.claim("a", 1, "node-1", "node-2", claimed.append)
    store.end_tokens("a", lambda: None)
    store.begin({"lobby": [resumed]})
    store.claim("a", 1, "node-1", "node-2", claimed.append)
    assert claimed == [4, 5, 0]
