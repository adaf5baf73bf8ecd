"""What only the shared store must see to: calls that a server refuses, and how operations become calls."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from redis import Redis

from presence_server.presence import script_calls
from presence_server.presence.operations import BROKEN, Done, Operation, Outcome
from presence_server.presence.port import UNKNOWN_EPOCH, Claim
from presence_server.presence.redis_reads import PART_MEMBERS_MAX, READ_WEIGHT
from presence_server.presence.roster import MemberCounts, Snapshot
from presence_server.presence.roster_read import WAIT_MS
from presence_server.presence.state import EVICTIONS_MAX
from presence_server.presence.sweeps import SWEEP_RETRY_MS
from presence_server.redis_io import store_errors
from presence_server.redis_io.batcher import WEIGHT_MAX
from tests.presence.pumped import HOLD_MS, KEYS, LATE_MS, Pumped, everything_heard
from tests.support.operations import CLAIM_MS, TTL_MS, beat, change, enter, kick, leave
from tests.support.redis_server import RedisServer


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


def test_a_large_room_is_read_in_parts_that_leave_less_of_a_pipeline_for_others(pumped: Pumped) -> None:
    fill(pumped, "large", 1_300)
    pumped.snapshot("large", lambda _: None)
    read: list[Snapshot] = []
    for room in ("large", *(f"small-{n}" for n in range(20))):
        pumped.gather_read(room, read.append)
    pipelines = []
    while work := pumped.pump_once():
        pipelines.append([piece.weight for piece in work])
    others = (WEIGHT_MAX - PART_MEMBERS_MAX) // READ_WEIGHT
    assert [len(pipeline) for pipeline in pipelines] == [1 + others, 20 - others + 1, 1]
    assert max(max(pipeline) for pipeline in pipelines) == PART_MEMBERS_MAX
    assert sorted(len(snapshot.records) for snapshot in read) == [0] * 20 + [1_300]


def scan_in_parts(pumped: Pumped, room: str, between: Callable[[int], None]) -> tuple[list[Snapshot], int]:
    """Read a room part by part; `between(part)` is called after each. Return what was answered, and the parts."""
    read: list[Snapshot] = []
    parts = 0
    pumped.gather_read(room, read.append)
    while not read:
        assert len(pumped.pump_once()) == 1
        parts += 1
        between(parts)
        assert parts < 100, "it is read without end"
    return read, parts


def stored(client: Redis, room: str) -> set[str]:
    cids: list[bytes] = client.hkeys(KEYS.room(room)[1])  # type: ignore[assignment]  # sync client
    return {cid.decode() for cid in cids}


def test_what_is_read_in_parts_is_the_room_as_it_was_at_the_last_one(pumped: Pumped, client: Redis) -> None:
    fill(pumped, "lobby", 1_600)
    at_part: list[set[str]] = []

    def between(part: int) -> None:
        at_part.append(stored(client, "lobby"))
        operations: list[Operation] = [
            *(leave(f"c{n}") for n in range(part * 100, part * 100 + 50)),
            *(enter(f"new-{part}-{n}") for n in range(100)),
            leave(f"new-{part - 1}-7"),
            *(change(f"c{n}", part + 1, {"part": part}) for n in range(1_500, 1_510)),
        ]
        for operation in operations:
            pumped.gather("lobby", operation, lambda _: None)
        pumped.pump_operations()

    read, parts = scan_in_parts(pumped, "lobby", between)
    assert parts >= 3
    (snapshot,) = read
    records = {record.member.cid: record for record in snapshot.records}
    assert records.keys() == at_part[parts - 1]
    assert {records[f"c{n}"].member.v for n in range(1_500, 1_510)} == {parts}


def test_a_room_of_which_a_delta_is_lost_while_it_is_read_is_read_anew(pumped: Pumped, client: Redis) -> None:
    fill(pumped, "lobby", 1_200)
    parts = 0
    read: list[Snapshot] = []
    pumped.gather_read("lobby", read.append)
    while len(pumped.pump_once()) == 1:
        parts += 1
        if parts == 1:
            with pumped.deaf():
                pumped.gather("lobby", leave("c7"), lambda _: None)
                pumped.pump_operations()
    assert (parts, read) == (3, [])
    pumped.sweep_once()
    assert read == [], "it may still come"
    pumped.clock.move(WAIT_MS)
    pumped.sweep_once()
    assert [{record.member.cid for record in snapshot.records} for snapshot in read] == [
        stored(client, "lobby")
    ]


def test_a_room_that_is_lost_while_it_is_read_is_read_anew(pumped: Pumped, client: Redis) -> None:
    fill(pumped, "lobby", 1_200)

    def between(part: int) -> None:
        if part == 1:
            client.flushall()
            for n in range(600):
                pumped.gather("lobby", enter(f"d{n}"), lambda _: None)
            pumped.pump_operations()

    read, _ = scan_in_parts(pumped, "lobby", between)
    assert [len(snapshot.records) for snapshot in read] == [600]


def test_of_a_room_with_more_members_than_are_wanted_only_the_numbers_are_read(pumped: Pumped) -> None:
    fill(pumped, "lobby", 101)
    for members_max, expected in ((100, ((), MemberCounts(101, 101))), (101, None), (0, None)):
        read: list[Snapshot] = []
        pumped.snapshot("lobby", read.append, members_max=members_max)
        (snapshot,) = read
        if expected is None:
            assert (len(snapshot.records), snapshot.counts) == (101, None)
        else:
            assert (snapshot.records, snapshot.counts) == expected


def test_a_read_that_was_given_up_is_not_answered(pumped: Pumped) -> None:
    fill(pumped, "lobby", 1_200)
    read: list[Snapshot] = []
    pumped.gather_read("lobby", read.append)
    pumped.pump_once()
    pumped.lose_contact()
    pumped.isolated = False
    assert pumped.pump() == 0
    assert read == []


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
