"""What only the shared store must see to: calls that a server refuses, and how operations become calls."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from presence_server.presence import script_calls
from presence_server.presence.port import UNKNOWN_EPOCH, Claim
from presence_server.presence.state import BROKEN, EVICTIONS_MAX, Done, Outcome
from presence_server.presence.sweeps import SWEEP_RETRY_MS
from presence_server.redis_io import store_errors
from tests.presence.pumped import HOLD_MS, KEYS, LATE_MS, Pumped, everything_heard
from tests.support.operations import CLAIM_MS, TTL_MS, beat, change, enter, kick, leave
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from presence_server.presence.roster import Snapshot


@pytest.fixture
def client() -> Iterator[Redis]:
    with RedisServer("valkey") as server, Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def pumped(client: Redis) -> Iterator[Pumped]:
    heard = everything_heard(client)
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


@pytest.mark.parametrize("spoil", ["type", "number"])
def test_a_claim_that_cannot_be_read_is_unknown_and_ends_no_contact(
    pumped: Pumped, client: Redis, spoil: str
) -> None:
    """The store of this test fails where it is told that the store is away."""
    if spoil == "type":
        client.set(KEYS.claim("a"), "not what it should be", px=60_000)
    else:
        client.hset(KEYS.claim("a"), "epoch", "not what it should be")
        client.pexpire(KEYS.claim("a"), 60_000)
    before = Counter(store_errors.counts)
    answers: list[object] = []
    pumped.claim("a", 1, "node-1", "node-2", answers.append)
    pumped.read_claim("a", answers.append)
    assert answers == [UNKNOWN_EPOCH, Claim()]
    assert store_errors.counts - before == Counter({"claim": 1, "HMGET": 1})
    pumped.end_tokens("a", lambda: answers.append("ended"))
    pumped.claim("b", 1, "node-1", "node-2", answers.append)
    assert answers[2:] == ["ended", 2]


def test_of_a_user_whose_end_cannot_be_read_no_token_resumes_that_may_have_ended(
    pumped: Pumped, client: Redis
) -> None:
    client.hset(KEYS.user_end("ann"), "not", "what it should be")
    client.pexpire(KEYS.user_end("ann"), 60_000)
    ends: list[int] = []
    pumped.read_user_end("ann", ends.append)
    assert ends == [pumped.clock.wall_ms()]
    client.set(KEYS.user_end("ann"), "nor this", px=60_000)
    pumped.read_user_end("ann", ends.append)
    assert ends == [pumped.clock.wall_ms()] * 2


def test_a_ticks_operations_of_a_room_are_one_call(pumped: Pumped) -> None:
    for n in range(script_calls.CALL_MAX["enter"]):
        pumped.gather("lobby", enter(f"c{n}"), lambda _: None)
    assert pumped.pump() == 1
    for n in range(script_calls.CALL_MAX["enter"] + 1):
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


def test_only_so_many_rooms_that_nothing_is_known_of_are_read_in_one_pipeline(pumped: Pumped) -> None:
    read: list[int] = []
    for n in range(50):
        pumped.gather_read(f"room-{n}", lambda _: read.append(1))
    assert [len(pumped.pump_once()), len(pumped.pump_once()), len(pumped.pump_once())] == [20, 20, 10]
    assert len(read) == 50


def test_rooms_that_are_known_to_be_small_are_read_a_hundred_at_a_time(pumped: Pumped) -> None:
    rooms = [f"room-{n}" for n in range(120)]
    for room in rooms:
        pumped.gather(room, enter("a"), lambda _: None)
        pumped.gather_read(room, lambda _: None)
    pumped.pump()
    for room in rooms:
        pumped.gather_read(room, lambda _: None)
    assert [len(pumped.pump_once()), len(pumped.pump_once())] == [100, 20]


def fill(pumped: Pumped, room: str, members: int) -> None:
    for n in range(members):
        pumped.gather(room, enter(f"c{n}"), lambda _: None)
    pumped.pump()


def test_a_large_read_leaves_less_room_for_others_in_its_pipeline(pumped: Pumped) -> None:
    for room in ("large", "larger"):
        fill(pumped, room, 1_500)
        pumped.snapshot(room, lambda _: None)
    for room in ("large", "small", "larger", "tiny"):
        pumped.gather_read(room, lambda _: None)
    assert [len(pumped.pump_once()), len(pumped.pump_once())] == [2, 2]


def test_what_came_after_a_refused_call_runs_again_after_its_parts(pumped: Pumped, client: Redis) -> None:
    client.hset(KEYS.room("lobby")[4], "bad", "not a fence")
    client.pexpire(KEYS.room("lobby")[4], 60_000)
    answers: list[tuple[str, Outcome]] = []
    for name, operation in (
        ("enter a", enter("a", {"x": 1})),
        ("enter bad", enter("bad")),
        ("change a", change("a", 2)),
        ("leave a", leave("a")),
    ):
        pumped.gather("lobby", operation, lambda outcome, name=name: answers.append((name, outcome)))  # type: ignore[misc]  # bound early
    pumped.pump()
    assert [name for name, _ in answers] == ["enter a", "enter bad", "change a", "leave a"]
    assert [type(outcome) for _, outcome in answers] == [Done, type(BROKEN), Done, Done]
    left: list[Snapshot] = []
    pumped.snapshot("lobby", left.append)
    assert left[0].records == (), "a member was entered again after it had left"


def test_what_came_after_a_refused_call_fails_in_order_where_contact_is_lost(
    pumped: Pumped, client: Redis
) -> None:
    client.hset(KEYS.room("lobby")[4], "bad", "not a fence")
    client.pexpire(KEYS.room("lobby")[4], 60_000)
    for operation in (enter("a"), enter("bad"), leave("a")):
        pumped.gather("lobby", operation, lambda _: None)
    pumped.pump_once()
    pumped.lose_contact()
    assert [operation for _, operation in pumped.failed] == [enter("a"), enter("bad"), leave("a")]


def test_one_sweep_goes_on_until_nobody_is_due(pumped: Pumped, client: Redis) -> None:
    fill(pumped, "lobby", 10_000)
    pumped.move(TTL_MS)
    pumped.snapshot("lobby", lambda _: None)
    pumped.sweep_once()
    assert client.zcard(KEYS.room("lobby")[0]) == 0


def test_any_answer_that_says_that_somebody_is_due_brings_a_sweep(pumped: Pumped, client: Redis) -> None:
    pumped.snapshot("lobby", lambda _: None)
    fill(pumped, "lobby", 3 * EVICTIONS_MAX)
    pumped.move(TTL_MS)
    pumped.carry_out("lobby", enter("other"), lambda _: None)
    assert client.zcard(KEYS.room("lobby")[0]) == 1


def test_a_room_that_cannot_be_swept_is_not_asked_without_end(pumped: Pumped, client: Redis) -> None:
    pumped.snapshot("lobby", lambda _: None)
    fill(pumped, "lobby", 1)
    pumped.move(TTL_MS)
    client.set(KEYS.room("lobby")[5], "not what it should be", px=60_000)
    pumped.snapshot("lobby", lambda _: None)  # says that somebody is due
    assert client.zcard(KEYS.room("lobby")[0]) == 1
    assert pumped.sweep_once() == 0
    pumped.clock.move(SWEEP_RETRY_MS)
    assert pumped.sweep_once() == 1


def test_a_room_that_holds_is_not_swept_before_its_hold_ends(pumped: Pumped, client: Redis) -> None:
    pumped.snapshot("lobby", lambda _: None)
    fill(pumped, "lobby", 3)
    pumped.hold_rest_ms = HOLD_MS
    pumped.carry_out("lobby", beat("c0"), lambda _: None)
    pumped.hold_rest_ms = 0
    client.zadd(KEYS.room("lobby")[0], {f"c{n}": 1 for n in range(3)})
    pumped.carry_out("lobby", beat("c0"), lambda _: None)
    for _ in range(4):
        assert pumped.sweep_once() == 0
    pumped.clock.move(HOLD_MS)
    assert pumped.sweep_once() == 1


def test_the_first_call_of_whoever_was_away_holds_and_so_does_every_other_until_the_hold_ends(
    pumped: Pumped, client: Redis
) -> None:
    for room in ("one", "two"):
        fill(pumped, room, 1)
    pumped.move(TTL_MS)
    pumped.hold_rest_ms = HOLD_MS
    for room in ("one", "two"):
        pumped.carry_out(room, beat("nobody"), lambda _: None)
    assert [client.zcard(KEYS.room(room)[0]) for room in ("one", "two")] == [1, 1]


def test_a_call_that_was_long_on_its_way_evicts_nobody(pumped: Pumped, client: Redis) -> None:
    fill(pumped, "lobby", 1)
    pumped.move(TTL_MS)
    pumped.clock.move(-LATE_MS - 1_000)
    pumped.carry_out("lobby", beat("nobody"), lambda _: None)
    assert client.zcard(KEYS.room("lobby")[0]) == 1


def test_a_room_that_nobody_has_been_in_is_nowhere(pumped: Pumped) -> None:
    pumped.snapshot("empty", lambda snapshot: None)
    pumped.carry_out("empty", beat(), lambda _: None)
    assert pumped.answered["empty"] == (0, 0)


def test_the_fences_of_a_busy_room_are_forgotten_in_their_time(pumped: Pumped, client: Redis) -> None:
    pumped.snapshot("lobby", lambda _: None)
    for turn in range(8):
        for n in range(100):
            pumped.gather("lobby", enter(f"c{turn}-{n}", epoch=2), lambda _: None)
            pumped.gather("lobby", kick(f"c{turn}-{n}", epoch=2), lambda _: None)
        pumped.pump()
        pumped.move(TTL_MS)
    assert client.hlen(KEYS.room("lobby")[4]) <= 400, "no more than twice those that still count"


def test_a_claim_is_kept_for_as_long_as_a_token_could_be_used(pumped: Pumped, client: Redis) -> None:
    key = KEYS.claim("a")
    for _ in range(2):
        pumped.claim("a", 1, "node-1", "node-2", lambda _: None)
        assert 0 < client.pttl(key) <= CLAIM_MS
        client.pexpire(key, 60_000)
    pumped.claim("a", 1, "node-1", "node-2", lambda _: None)
    assert client.pttl(key) > 60_000


def test_a_sweep_that_memory_answers_is_not_repeated(pumped: Pumped) -> None:
    pumped.snapshot("lobby", lambda _: None)
    pumped.carry_out("lobby", enter("a"), lambda _: None)
    pumped.clock.move(TTL_MS + SWEEP_RETRY_MS)
    pumped.isolated = True
    pumped._store._swept("lobby", Done(1, 1))
    assert pumped._store.take() == []
