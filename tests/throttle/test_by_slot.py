"""A store that is one server of a Cluster: a flight is a call for each slot, and everybody is told his own answer."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server import faults
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import slot_of
from presence_server.throttle.batch import DecisionBatch, DecisionRow, GivenUp, StoreAnswer
from presence_server.throttle.breaker import FAILURES_MAX
from presence_server.throttle.flight_calls import FlightReplies, split_by_slot
from presence_server.throttle.flight_dispatch import Flight
from presence_server.throttle.redis import SILENT_DEADLINES_MAX, SLOT_ERROR_PREFIXES, ThrottleRedisStore
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule
from tests.support.redis_server import RedisServer
from tests.support.tcp_servers import SLOTS, TcpServer, wait_for
from tests.support.waiting import DEADLINE_S, until
from tests.throttle.test_flights import called

if TYPE_CHECKING:
    from presence_server.redis_io.multiplexed import MultiplexedConnection

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

KEYS = Keys("ps")
LONG_MS = 20_000
NINE, TWO = Rule("nine", "9/1h"), Rule("two", "2/1h")
ADMITTED, REFUSED = [1, 8, 0, 9, 0], [0, 0, 9, 9, 0]


class Asked:
    """A store, what was asked of it, and what it says unasked."""

    def __init__(self, url: str, deadline_ms: int = LONG_MS) -> None:
        self.asked = 0
        self.answers: dict[str, list[StoreAnswer]] = {}
        self.refused: list[tuple[str, int]] = []
        self.forgotten: list[str | None] = []
        self.slots_refused = 0
        self.store = ThrottleRedisStore(
            RedisClient(url),
            KEYS,
            deadline_ms,
            lambda place, _: self.forgotten.append(place),
            lambda place, row, cost, said: self.refused.append((place, cost)),
            on_slot_refused=self.note_slot_refused,
        )

    def note_slot_refused(self) -> None:
        self.slots_refused += 1

    def place(self, key: str, rule: Rule = NINE) -> str:
        return KEYS.throttle(rule.place, key)

    def hit(self, *keys: str) -> None:
        for key in keys:
            self.asked += 1
            given_up = self.store.ask_once(NINE, self.place(key), self.answers.setdefault(key, []).append)
            assert given_up is None

    @property
    def told(self) -> int:
        return sum(map(len, self.answers.values()))

    async def answered(self) -> dict[str, list[Any]]:
        """Return what remains of each key after each hit, or why there is no answer."""
        await until(lambda: self.told == self.asked)
        told, self.answers, self.asked = self.answers, {}, 0
        return {
            key: [each if isinstance(each, GivenUp) else each[1] for each in said]
            for key, said in told.items()
        }


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asked]:
    asked = Asked(url)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asked.store.connect()
        yield asked
    finally:
        await asked.store.aclose()


@pytest.fixture(scope="module")
def half() -> Iterator[TcpServer]:
    """A server of a Cluster that has the lower half of the slots; nobody has the others."""
    options = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no", "save": '""'}
    server = TcpServer("valkey", options)
    try:
        server.start()
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 2 - 1)
        wait_for(
            lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"),
            lambda: server.ask("CLUSTER", "INFO"),
        )
        yield server
    finally:
        server.close()


def is_in_half(key: str) -> bool:
    return slot_of(KEYS.throttle(NINE.place, key)) < SLOTS // 2


SERVED = [key for key in (f"k{n}" for n in range(40)) if is_in_half(key)][:6]
ELSEWHERE = [key for key in (f"k{n}" for n in range(40)) if not is_in_half(key)][:6]


def test_each_slot_gets_its_own_rows_with_their_numbers_in_the_flight() -> None:
    first, second = DecisionBatch(0, 0), DecisionBatch(0, 0)
    one: list[Any] = []
    other: list[Any] = []
    for batch, key in ((first, "a"), (first, "b"), (first, "a"), (second, "b"), (second, "c")):
        batch.add_hit(f"x:{{{key}}}", row_of(NINE), print)
    second.add_decision(["x:{a}", "y:{a}"], DecisionRow("hit", 2, (row_of(NINE), row_of(TWO))), one.append)
    second.add_hit("z:{a}", row_of(TWO), other.append)
    calls = split_by_slot([first, second])
    parts = [call.batches[0] for call in calls]
    assert [len(call.batches) for call in calls] == [1, 1, 1]
    assert [(call.numbers, part.places) for call, part in zip(calls, parts, strict=True)] == [
        ([0, 4, 5], ["x:{a}", "x:{a}", "y:{a}", "z:{a}"]),
        ([1, 2], ["x:{b}", "x:{b}"]),
        ([3], ["x:{c}"]),
    ]
    assert parts[0].rows == [row_of(NINE), DecisionRow("hit", 2, (row_of(NINE), row_of(TWO))), row_of(TWO)]
    assert parts[0].dones == [[print, print], [one.append], [other.append]]
    assert [part.only_row for part in parts] == [None] * 3, "rows of several rules may be among them"


async def test_what_is_asked_of_many_slots_is_a_call_for_each_and_everybody_is_told_his_own(
    empty_server: RedisServer,
) -> None:
    async with asking(empty_server.url) as asked:
        hits = {f"k{n}": n for n in range(1, 12)}
        before = called(empty_server, "evalsha")
        asked.hit("alone")  # what follows travels together
        asked.hit(*(key for key, number in hits.items() for _ in range(number)))
        remaining = {key: [max(8 - n, 0) for n in range(number)] for key, number in hits.items()}
        assert await asked.answered() == remaining | {"alone": [8]}
        assert called(empty_server, "evalsha") - before == 1 + len(hits)
        assert sorted(asked.refused) == sorted((asked.place(key), 1) for key in ("k10", "k11"))


async def test_a_script_that_the_server_has_forgotten_is_sent_again_for_every_slot_and_counts_once(
    empty_server: RedisServer,
) -> None:
    async with asking(empty_server.url) as asked:
        for left in (8, 7):
            empty_server.ask("SCRIPT", "FLUSH")
            asked.hit("a", "b", "c")
            assert await asked.answered() == {"a": [left], "b": [left], "c": [left]}
        assert asked.slots_refused == 0


async def test_who_is_of_a_slot_that_is_elsewhere_is_not_decided_and_the_others_are(half: TcpServer) -> None:
    half.ask("FLUSHALL")
    async with asking(f"redis://{half.address}") as asked:
        for left in (8, 7):
            before = asked.slots_refused
            asked.hit(SERVED[0])  # what follows travels together
            asked.hit(*SERVED[1:], *ELSEWHERE)
            told = await asked.answered()
            assert told == {key: [left] for key in SERVED} | {key: [GivenUp.AWAY] for key in ELSEWHERE}
            assert asked.slots_refused == before + len(ELSEWHERE)
        assert asked.refused == []
        assert not asked.store.broken


async def test_keys_of_a_slot_that_is_elsewhere_do_not_end_the_limits_of_other_keys(half: TcpServer) -> None:
    half.ask("FLUSHALL")
    async with asking(f"redis://{half.address}") as asked:
        for left in (8, 7):
            for _ in range(2 * FAILURES_MAX):
                asked.hit(ELSEWHERE[0])
                assert await asked.answered() == {ELSEWHERE[0]: [GivenUp.AWAY]}
            assert not asked.store.broken
            asked.hit(SERVED[0])
            assert await asked.answered() == {SERVED[0]: [left]}


class Flown:
    """A flight of three keys, k0 to k2, whose replies are given by hand."""

    def __init__(self) -> None:
        self.asked = Asked("redis://127.0.0.1:1")
        self.told: list[StoreAnswer] = []
        batch = DecisionBatch(0, 1e12)
        for n in range(3):
            batch.add_hit(self.asked.place(f"k{n}"), row_of(NINE), self.told.append)
        store = self.asked.store
        store._connection.listens = True
        self.flight = Flight([batch], 0)
        store._dispatcher.flights.append(self.flight)
        self.replies = FlightReplies(self.flight, by_slot=True)

    def reply(self, *replies: object) -> None:
        for call, reply in zip(self.replies.calls, replies, strict=True):
            self.asked.store._take_reply(self.replies, call, reply)


def said(answer: list[int]) -> bytes:
    return bytes([0x92, 1, 0x91, 0x95, *answer])  # msgpack of [1, [answer]]


@pytest.mark.parametrize("refusal", ["MOVED 1 h:1", "ASK 1 h:1", "TRYAGAIN Multiple", "CLUSTERDOWN Hash"])
def test_every_way_to_say_that_a_slot_is_elsewhere_is_understood(refusal: str) -> None:
    assert refusal.startswith(SLOT_ERROR_PREFIXES)
    flown = Flown()
    flown.reply(said(ADMITTED), hiredis.ReplyError(refusal), said(REFUSED))
    assert flown.told == [ADMITTED, GivenUp.AWAY, REFUSED]
    assert flown.asked.slots_refused == 1
    assert flown.asked.refused == [(flown.asked.place("k2"), 1)]
    assert not flown.asked.store._dispatcher.flights


@pytest.mark.parametrize(
    ("refusal", "broken"),
    [
        ("MOVED 1 h:1", False),
        ("CLUSTERDOWN Hash slot not served", False),
        ("CLUSTERDOWN The cluster is down", True),
    ],
)
def test_only_what_a_server_refuses_of_all_slots_counts_as_its_failure(refusal: str, broken: bool) -> None:
    flown = Flown()
    flown.asked.store._dispatcher.breaker._failures = FAILURES_MAX - 1
    flown.reply(*[hiredis.ReplyError(refusal)] * 3)
    assert flown.told == [GivenUp.AWAY] * 3
    assert flown.asked.store.broken is broken


def test_a_reset_between_two_replies_of_a_flight_is_not_undone_by_the_refusal_before_it() -> None:
    flown = Flown()
    one, two, three = flown.replies.calls
    flown.asked.store._take_reply(flown.replies, one, said(REFUSED))
    assert flown.asked.refused == [(flown.asked.place("k0"), 1)]
    flown.asked.store._connection._take_push([b"message", b"channel", flown.asked.place("k0").encode()])
    flown.asked.store._take_reply(flown.replies, two, said(ADMITTED))
    flown.asked.store._take_reply(flown.replies, three, said(ADMITTED))
    assert flown.asked.forgotten == [flown.asked.place("k0")]
    assert len(flown.asked.refused) == 1, "what was forgotten is remembered again"
    assert flown.told == [REFUSED, ADMITTED, ADMITTED]


def test_a_reply_with_other_than_one_answer_for_each_decision_is_not_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flown = Flown()
    two = bytes([0x92, 1, 0x92, *[0x95, *ADMITTED] * 2])
    flown.reply(two, said(ADMITTED), bytes([0x92, 1, 0x90]))
    assert flown.told == [GivenUp.AWAY, ADMITTED, GivenUp.AWAY]
    assert "2 answers to 1 decisions" in caplog.text


def test_another_refusal_says_nothing_of_slots() -> None:
    flown = Flown()
    flown.reply(said(ADMITTED), hiredis.ReplyError("OOM command not allowed"), said(ADMITTED))
    assert flown.told == [ADMITTED, GivenUp.AWAY, ADMITTED]
    assert flown.asked.slots_refused == 0


def test_a_reply_that_cannot_be_read_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    flown = Flown()
    flown.reply(b"junk", said(ADMITTED), said(REFUSED))
    assert flown.told == [GivenUp.AWAY, ADMITTED, REFUSED]
    assert "made without the store" in caplog.text
    assert flown.asked.slots_refused == 0


def test_nobody_is_told_before_the_last_reply_or_by_a_connection_that_is_lost() -> None:
    flown = Flown()
    flown.reply(said(ADMITTED), RedisConnectionError("lost"), said(ADMITTED))
    assert (flown.told, flown.replies.outstanding) == ([], 1)
    assert flown.asked.refused == []
    no_script = hiredis.ReplyError("NOSCRIPT No matching")
    flown.asked.store._take_reply(flown.replies, flown.replies.calls[1], no_script)
    assert flown.told == [], "there is no connection to send it over again"


@pytest.mark.parametrize(
    ("broken", "failure", "unwanted"),
    [
        (True, "READONLY You can't write against a read only replica.", True),
        (False, "READONLY You can't write against a read only replica.", False),
        (True, "no reply in time", False),
    ],
)
def test_only_a_server_that_goes_on_refusing_writes_is_given_up_for_another(
    broken: bool, failure: str, unwanted: bool
) -> None:
    store = Asked("redis://127.0.0.1:1").store
    store._broken, store._failure = broken, failure
    assert store._connection._is_unwanted() is unwanted


class Line:
    """A connection that sends nothing, and notes that it was given up; what it is asked it answers with `config`."""

    closing = True

    def __init__(self, config: object = None) -> None:
        self.config = config
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1

    async def ask(self, *command: str) -> object:
        return self.config


@pytest.mark.parametrize(
    ("deadlines", "aborted"), [(SILENT_DEADLINES_MAX - 1, 0), (SILENT_DEADLINES_MAX + 1, 1)]
)
async def test_a_connection_that_owes_a_reply_for_too_long_is_given_up(deadlines: int, aborted: int) -> None:
    flown = Flown()
    store, line = flown.asked.store, Line()
    store._look()  # there is none yet
    store._connection.live = cast("MultiplexedConnection", line)
    time_s = store._dispatcher._time.note_look(time.monotonic())
    store._dispatcher._silent_since_s = flown.flight.sent_s = time_s - deadlines * LONG_MS / 1_000
    store._look()
    assert line.aborted == aborted


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({b"maxmemory-policy": b"noeviction"}, False),
        ({}, False),
        ([], False),
        ({b"maxmemory-policy": b"allkeys-lru"}, True),
    ],
)
async def test_only_a_policy_that_is_told_and_forgets_is_warned_of(
    caplog: pytest.LogCaptureFixture, config: object, warned: bool
) -> None:
    connection = Asked("redis://127.0.0.1:1").store._connection
    connection._warned_of_policy = "allkeys-random"
    await connection._warn_of_eviction(cast("MultiplexedConnection", Line(config)))
    assert ("maxmemory-policy" in caplog.text) is warned


async def test_how_many_are_held_is_told_where_there_is_a_store_and_who_says_so_hears_when(
    empty_server: RedisServer,
) -> None:
    held = Rule("held", "5/1h")
    kept: list[object] = []
    faults_before = faults.counts["limiter"]
    away = Asked("redis://127.0.0.1:1")
    assert not away.store.keep(held, [(away.place("k", held), lambda: 2)], kept.append)
    await away.store.aclose()
    async with asking(empty_server.url) as asked:
        places = [asked.place(key, held) for key in "abc"]
        assert asked.store.keep(held, [(place, lambda: 2) for place in places], kept.append)
        await until(lambda: kept)
        assert kept == [[1, 3, 0, 0, 0]]
        assert empty_server.ask("EXISTS", *places) == 3
    assert faults.counts["limiter"] == faults_before


async def test_a_store_that_is_first_told_how_many_are_held_connects(empty_server: RedisServer) -> None:
    asked = Asked(empty_server.url)
    try:
        assert not asked.store.keep(NINE, [(asked.place("k"), lambda: 1)], print)
        async with asyncio.timeout(DEADLINE_S):
            await asked.store._connection.wait_connected()
    finally:
        await asked.store.aclose()


@pytest.mark.parametrize(("short_s", "warnings"), [(0, 2), (600, 1)])
async def test_that_a_store_is_away_is_said_again_only_after_a_connection_that_lasted(
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    short_s: float,
    warnings: int,
) -> None:
    monkeypatch.setattr("presence_server.throttle.store_connection.SHORT_LIVED_S", short_s)
    monkeypatch.setattr("presence_server.throttle.store_connection.LONGEST_RETRY_S", 0.01)

    def said() -> int:
        return sum("cannot reach its store" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, "presence_server.throttle"):
        async with asking(server.url) as asked:
            for failures in (1, 2):
                server.kill()
                await until(lambda: asked.store._dispatcher.unreachable)
                assert asked.store._failure == "the connection was lost"
                await until(lambda: said() == min(failures, warnings))  # noqa: B023 - awaited here
                server.start()
                async with asyncio.timeout(DEADLINE_S):
                    await asked.store.connect()
    assert said() == warnings
