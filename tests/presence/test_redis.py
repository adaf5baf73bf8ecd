"""What only the shared store must see to: calls that a server refuses, and how operations become calls."""

from collections.abc import Iterator
from functools import partial

import pytest
from redis import Redis

from presence_server.presence import calls
from presence_server.presence.state import BROKEN, Done, Outcome
from tests.presence.pumped import KEYS, Pumped
from tests.support.operations import beat, enter
from tests.support.redis_server import RedisServer


@pytest.fixture
def client() -> Iterator[Redis]:
    with RedisServer("valkey") as server, Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def pumped(client: Redis) -> Iterator[Pumped]:
    heard = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
    heard.psubscribe(KEYS.channel("*"))
    yield Pumped(client, heard)
    heard.close()


def test_a_call_that_is_refused_is_split_and_what_fails_alone_is_said_to_be_broken(
    pumped: Pumped, client: Redis
) -> None:
    for key in KEYS.room("poisoned"):
        client.set(key, "not what it should be", px=60_000)
    answers: dict[str, Outcome] = {}
    for room in ("poisoned", "fine"):
        for cid in ("a", "b"):
            pumped.gather(room, enter(cid), partial(answers.__setitem__, room + cid))
    pumped.pump()
    assert answers["poisoneda"] == answers["poisonedb"] == BROKEN
    assert isinstance(answers["finea"], Done)
    assert isinstance(answers["fineb"], Done)


def test_a_room_that_cannot_be_read_is_empty(pumped: Pumped, client: Redis) -> None:
    client.set(KEYS.room("poisoned")[3], "not what it should be", px=60_000)
    records = []
    pumped.snapshot("poisoned", lambda snapshot: records.append(snapshot.records))
    assert records == [()]


def test_a_ticks_operations_of_a_room_are_one_call(pumped: Pumped) -> None:
    for n in range(calls.CALL_MAX["enter"]):
        pumped.gather("lobby", enter(f"c{n}"), lambda _: None)
    assert pumped.pump() == 1
    for n in range(calls.CALL_MAX["enter"] + 1):
        pumped.gather("lobby", enter(f"d{n}"), lambda _: None)
    assert pumped.pump() == 2


def test_operations_of_a_room_keep_their_order_across_verbs(pumped: Pumped) -> None:
    unknown: list[tuple[str, ...]] = []

    def beaten(outcome: Outcome) -> None:
        assert isinstance(outcome, Done)
        unknown.append(outcome.unknown)

    pumped.gather("lobby", beat("a"), beaten)
    pumped.gather("lobby", enter("a"), lambda _: None)
    pumped.gather("lobby", beat("a"), beaten)
    assert pumped.pump() == 3
    assert unknown == [("a",), ()]


def test_only_so_many_rooms_are_read_in_one_pipeline(pumped: Pumped) -> None:
    read: list[int] = []
    for n in range(50):
        pumped.gather_read(f"room-{n}", lambda _: read.append(1))
    assert [len(pumped.pump_once()), len(pumped.pump_once()), len(pumped.pump_once())] == [20, 20, 10]
    assert len(read) == 50
