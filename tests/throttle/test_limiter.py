"""The limiter as a library: shared by processes, and never an outage of its own."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from presence_server.rates import OnError
from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.breaker import FAILURES_MAX, LONGEST_S, Breaker
from presence_server.throttle.rule import ALGORITHMS, Algorithm
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[2]
FIVE = Rule("five", "5/1h")
LONG_MS = 20_000
"""A deadline that a busy machine keeps."""


@pytest.fixture
async def limiter(empty_server: RedisServer) -> AsyncIterator[Limiter]:
    async with Limiter([FIVE], redis=empty_server.url, deadline_ms=LONG_MS) as limiter:
        yield limiter


async def hits(limiter: Limiter, times: int, rule: str = "five", key: str = "k") -> list[Decision]:
    return [await limiter.hit(rule, key) for _ in range(times)]


async def decided(limiter: Limiter, key: str, wanted: Callable[[Decision], bool]) -> None:
    """Hit until a decision is as wanted."""
    with anyio.fail_after(DEADLINE_S):
        while not wanted(await limiter.hit("five", key)):  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.02)


@pytest.mark.parametrize("shared", [True, False])
async def test_a_limit_is_kept_and_said(empty_server: RedisServer, shared: bool) -> None:
    url = empty_server.url if shared else ""
    async with Limiter([FIVE], redis=url, deadline_ms=LONG_MS) as limiter:
        decisions = await hits(limiter, 7)
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False] * 2
    assert [decision.remaining for decision in decisions] == [4, 3, 2, 1, 0, 0, 0]
    sources = ["redis"] * 6 + ["deny_cache"] if shared else ["local"] * 7
    assert [decision.source for decision in decisions] == sources
    assert all(3_590 < decision.retry_after <= 3_600 for decision in decisions[5:])
    assert decisions[0].retry_after == 0
    assert (decisions[0].limit, decisions[0].window, decisions[0].rule) == (5, 3_600, "five")


async def test_limiters_that_share_a_store_share_a_count(limiter: Limiter, empty_server: RedisServer) -> None:
    async with Limiter([FIVE], redis=empty_server.url, deadline_ms=LONG_MS) as other:
        await hits(limiter, 3)
        assert [decision.allowed for decision in await hits(other, 3)] == [True, True, False]
        assert not (await limiter.peek("five", "k")).allowed
    async with Limiter([FIVE], redis=empty_server.url, prefix="another", deadline_ms=LONG_MS) as apart:
        assert (await apart.hit("five", "k")).allowed


async def test_a_denied_key_under_attack_costs_the_store_nothing(
    limiter: Limiter, empty_server: RedisServer
) -> None:
    def commands() -> int:
        return int(empty_server.ask("INFO", "stats")["total_commands_processed"])

    await hits(limiter, 6)
    before = commands()
    for _ in range(5_000):
        assert (await limiter.hit("five", "k")).source == "deny_cache"
    assert commands() - before < 20


async def test_a_reset_is_heard_by_every_deny_cache(limiter: Limiter, empty_server: RedisServer) -> None:
    async with Limiter([FIVE], redis=empty_server.url, deadline_ms=LONG_MS) as other:
        await hits(limiter, 7)
        await hits(other, 2)
        await until(lambda: empty_server.ask("PUBSUB", "NUMSUB", "ps:t:purge")[1] == 2)
        assert (await other.hit("five", "k")).source == "deny_cache"
        assert (await limiter.reset("five", "k")).remaining == 5
        await decided(other, "k", lambda decision: decision.allowed)


async def test_a_refund_and_a_block_work_through_the_deny_cache(limiter: Limiter) -> None:
    await hits(limiter, 7)
    assert (await limiter.refund("five", "k", 2)).remaining == 2
    assert [decision.allowed for decision in await hits(limiter, 3)] == [True, True, False]
    assert (await limiter.block("five", "other", 60_000)).retry_after == pytest.approx(60, abs=5)
    assert not (await limiter.hit("five", "other")).allowed


async def test_a_raised_limit_is_not_refused_from_memory(limiter: Limiter) -> None:
    await hits(limiter, 7)
    limiter.change_rules([Rule("five", "8/1h")])
    assert [decision.allowed for decision in await hits(limiter, 4)] == [True] * 3 + [False]


async def test_a_rule_may_get_another_algorithm_while_running(empty_server: RedisServer) -> None:
    for url in (empty_server.url, ""):
        async with Limiter([FIVE], redis=url, deadline_ms=LONG_MS) as limiter:
            for algorithm in ALGORITHMS:
                limiter.change_rules([Rule("five", "5/1h", algorithm)])
                decisions = await hits(limiter, 6, key="changed")
                assert [decision.allowed for decision in decisions] == [True] * 5 + [False], algorithm


async def test_several_rules_refuse_with_the_name_of_the_one_that_does(empty_server: RedisServer) -> None:
    rules = [Rule("loose", "100/1h"), Rule("tight", "2/1h", "sliding")]
    for url in (empty_server.url, ""):
        async with Limiter(rules, redis=url, deadline_ms=LONG_MS) as limiter:
            for _ in range(2):
                assert (await limiter.hit(["loose", "tight"], "k")).rule == "tight"
            for _ in range(3):
                refused = await limiter.hit(["loose", "tight"], "k")
                assert (refused.allowed, refused.rule) == (False, "tight")
            assert (await limiter.peek("loose", "k")).remaining == 98


async def test_a_rule_in_shadow_counts_and_admits(empty_server: RedisServer) -> None:
    for url in (empty_server.url, ""):
        async with Limiter([Rule("quiet", "2/1h", shadow=True)], redis=url, deadline_ms=LONG_MS) as limiter:
            decisions = await hits(limiter, 4, "quiet")
            assert [(d.allowed, d.would_deny) for d in decisions] == [(True, False)] * 2 + [(True, True)] * 2
            assert all(decision.source != "deny_cache" for decision in decisions)


@pytest.mark.parametrize("shared", [True, False])
async def test_a_charge_counts_afterwards_up_to_the_limit(empty_server: RedisServer, shared: bool) -> None:
    url = empty_server.url if shared else ""
    async with Limiter([FIVE], redis=url, deadline_ms=LONG_MS) as limiter:
        assert (await limiter.charge("five", "k", 3)).remaining == 2
        charged = await limiter.charge("five", "k", 30)
        assert (charged.allowed, charged.remaining) == (False, 0)
        assert not (await limiter.hit("five", "k")).allowed
        assert (await limiter.refund("five", "k", 1)).remaining == 1
        with pytest.raises(ValueError, match="a cost is a whole number from 1"):
            await limiter.charge("five", "k", 0)


async def test_a_decision_of_this_process_is_the_same_however_the_rule_is_named() -> None:
    told: list[Decision] = []
    async with Limiter([FIVE], on_decision=told.append) as by_name, Limiter([FIVE]) as by_rule:
        for _ in range(7):
            named, given = await by_name.hit("five", "k"), await by_rule.hit(FIVE, "k")
            checks = [(rule, verdict[:2]) for rule, verdict in named.checks]
            assert checks == [(rule, verdict[:2]) for rule, verdict in given.checks]
            assert (named[:3], named[5:9], named[10:]) == (given[:3], given[5:9], given[10:])
            assert abs(named.reset_after - given.reset_after) < 60
            assert told[-1] is named


async def test_what_cannot_be_asked_says_why(limiter: Limiter) -> None:
    with pytest.raises(LookupError, match="no rule 'six'; there are: five"):
        await limiter.hit("six", "k")
    for cost in (0, -1, 6):
        with pytest.raises(ValueError, match="'five' admits a cost from 1 to 5"):
            await limiter.hit("five", "k", cost)
    with pytest.raises(ValueError, match="rule 'five' is given twice"):
        await limiter.hit(["five", FIVE], "k")
    with pytest.raises(ValueError, match="at least 1 ms"):
        await limiter.block("five", "k", 0)
    jobs = Rule("jobs", "5/60s", "slots")
    for asked in (limiter.hit(jobs, "k"), limiter.peek(jobs, "k"), limiter.hit([FIVE, jobs], "k")):
        with pytest.raises(ValueError, match="'jobs' has slots"):
            await asked
    with pytest.raises(ValueError, match="'jobs' has slots: there is no block"):
        await limiter.block(jobs, "k", 1)
    with pytest.raises(ValueError, match="two rules are named 'five'"):
        limiter.change_rules([FIVE, FIVE])


@pytest.mark.parametrize("key", ["", "a" * 5_000, "{}", "a b\n", "é\udc80", "::1"])
async def test_any_text_is_a_key(limiter: Limiter, key: str) -> None:
    assert [decision.allowed for decision in await hits(limiter, 6, key=key)] == [True] * 5 + [False]


@pytest.mark.one_kind
async def test_a_caller_that_gives_up_disturbs_nobody(limiter: Limiter) -> None:
    async def give_up(key: str) -> None:
        with anyio.move_on_after(0):
            await limiter.hit("five", key)

    async with anyio.create_task_group() as tasks:
        for n in range(50):
            tasks.start_soon(give_up, f"impatient-{n}")
            tasks.start_soon(hits, limiter, 3, "five", f"patient-{n}")
    for n in range(50):
        assert (await limiter.peek("five", f"patient-{n}")).remaining == 2


async def test_decisions_need_no_task(limiter: Limiter) -> None:
    decisions: list[Decision] = []
    for _ in range(7):
        limiter.decide("five", "k", 1, decisions.append)
    await until(lambda: len(decisions) == 7)
    assert sum(decision.allowed for decision in decisions) == 5


RACER = """
import asyncio, sys
from presence_server.throttle import Limiter, Rule

async def main(url, algorithm):
    async with Limiter([Rule("r", "5/1h", algorithm)], redis=url, deadline_ms=20000) as limiter:
        decisions = await asyncio.gather(*(limiter.hit("r", "k") for _ in range(67)))
        print(sum(decision.allowed for decision in decisions), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.one_kind
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_of_two_hundred_at_once_from_three_processes_exactly_the_limit_gets_in(
    empty_server: RedisServer, algorithm: Algorithm
) -> None:
    command = [sys.executable, "-c", RACER, empty_server.url, algorithm]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) for _ in range(3)]
    assert sum(int(racer.communicate(timeout=60)[0]) for racer in racers) == 5


# --- a store that fails ---

DEADLINE_MS = 100
FAR_BELOW_A_LIBRARYS_DEFAULT_S = 3


def kill(server: RedisServer) -> None:
    server.kill()


def freeze(server: RedisServer) -> None:
    server.freeze()


def make_read_only(server: RedisServer) -> None:
    server.ask("REPLICAOF", "127.0.0.1", "1")


def fill(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "1")


def heal(server: RedisServer, broke: Callable[[RedisServer], None]) -> None:
    if broke is kill:
        server.start()
    elif broke is freeze:
        server.thaw()
    elif broke is make_read_only:
        server.ask("REPLICAOF", "NO", "ONE")
    else:
        server.ask("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize(
    ("on_error", "breaks"),
    [("open", kill), ("local", freeze), ("closed", make_read_only), ("open", fill), ("closed", freeze)],
)
async def test_a_broken_store_costs_a_deadline_then_microseconds_and_heals(
    server: RedisServer, breaks: Callable[[RedisServer], None], on_error: OnError
) -> None:
    async with Limiter([FIVE], redis=server.url, on_error=on_error, deadline_ms=DEADLINE_MS) as limiter:
        await decided(limiter, "before", lambda decision: decision.source == "redis")
        breaks(server)
        decisions = []
        for _ in range(FAILURES_MAX):
            begun = time.monotonic()
            decisions.append(await limiter.hit("five", "k"))
            assert time.monotonic() - begun < FAR_BELOW_A_LIBRARYS_DEFAULT_S
        assert limiter.broken
        begun = time.monotonic()
        decisions += await hits(limiter, 1_000)
        assert time.monotonic() - begun < FAR_BELOW_A_LIBRARYS_DEFAULT_S
        expected = {"open": (1_005, "open"), "closed": (0, "closed"), "local": (5, "local")}[on_error]
        assert (sum(d.allowed for d in decisions), decisions[-1].source) == expected
        if on_error == "closed":
            assert decisions[-1].retry_after > 0
        heal(server, breaks)
        await decided(limiter, "after", lambda decision: decision.source == "redis")
    assert server.keys_without_ttl() == []


async def test_the_application_may_decide_what_the_store_does_not() -> None:
    asked: list[tuple[str, str, int]] = []

    def decide(rule: str, key: str, cost: int) -> bool:
        asked.append((rule, key, cost))
        return key == "friend"

    async with Limiter(
        [FIVE], redis="redis://127.0.0.1:1", on_error=decide, deadline_ms=DEADLINE_MS
    ) as limiter:
        friend, stranger = await limiter.hit("five", "friend", 2), await limiter.hit("five", "stranger")
    assert (friend.allowed, friend.source) == (True, "open")
    assert (stranger.allowed, stranger.source) == (False, "closed")
    assert asked == [("five", "friend", 2), ("five", "stranger", 1)]


async def test_a_client_that_is_passed_in_keeps_its_connections(empty_server: RedisServer) -> None:
    async with Redis.from_url(empty_server.url, decode_responses=True, socket_timeout=7) as client:
        async with Limiter([FIVE], redis=client, deadline_ms=LONG_MS) as limiter:
            assert [decision.source for decision in await hits(limiter, 6)] == ["redis"] * 6
        assert await client.ping()
        assert await client.get("ps:t:{k}:fixed:five") == "5"


async def test_nothing_that_was_given_up_is_asked_again(server: RedisServer) -> None:
    async with Limiter([FIVE], redis=server.url, deadline_ms=DEADLINE_MS) as limiter:
        await limiter.hit("five", "warm")
        server.freeze()
        assert [(await limiter.hit("five", "k")).source for _ in range(3)] == ["open"] * 3
        server.thaw()
        await anyio.sleep(1)
        left = (await limiter.peek("five", "k")).remaining
        assert left >= 2, "each was counted at most once"


async def test_without_any_server_it_works_as_it_says() -> None:
    async with Limiter(
        [FIVE], redis="redis://127.0.0.1:1", on_error="local", deadline_ms=DEADLINE_MS
    ) as limiter:
        assert sum(decision.allowed for decision in await hits(limiter, 20)) == 5


def test_a_breaker_tries_one_probe_at_a_time_and_waits_longer_each_time() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(FAILURES_MAX):
        assert breaker.allows(now)
        breaker.failed(now)
    waits = []
    for _ in range(8):
        waited = 0.0
        while not breaker.allows(now):
            now += 0.01
            waited += 0.01
        assert not breaker.allows(now), "one probe at a time"
        breaker.failed(now)
        waits.append(waited)
    assert 0.2 < waits[0] <= 0.52
    assert waits[3] > waits[0]
    assert LONGEST_S / 2 - 0.1 < waits[-1] <= LONGEST_S + 0.1
    while not breaker.allows(now):
        now += 0.01
    breaker.succeeded()
    assert breaker.allows(now)
    assert breaker.allows(now)


def test_the_headers_are_those_of_the_draft() -> None:
    said: dict[str, Any] = {"limit": 60, "reset_after": 11.2, "rule": 'say "hi"', "window": 60}
    admitted = Decision(allowed=True, remaining=3, retry_after=0, source="redis", **said)
    assert admitted.headers()["RateLimit"].endswith(";r=3;t=12")
    assert admitted.headers()["RateLimit-Policy"].endswith(";q=60;w=60")
    assert admitted.headers()["RateLimit"].startswith('"say \\"hi\\"')
    assert "Retry-After" not in admitted.headers()
    refused = Decision(allowed=False, remaining=0, retry_after=0.2, source="redis", **said)
    assert refused.headers()["Retry-After"] == "1"
    assert (refused.retry_after_ms, refused.reset_after_ms) == (200, 11_200)


async def test_a_limiter_in_one_process_needs_no_await_to_switch() -> None:
    async with Limiter([FIVE]) as limiter:
        decisions = await asyncio.gather(*(limiter.hit("five", "k") for _ in range(50)))
    assert sum(decision.allowed for decision in decisions) == 5


@pytest.mark.one_kind
async def test_rules_made_for_each_call_are_one_rule_and_a_great_many_harm_nobody(limiter: Limiter) -> None:
    for _ in range(4):
        assert (await limiter.hit(Rule("made", "4/1h"), "k")).source == "redis"
    assert not (await limiter.hit(Rule("made", "4/1h"), "k")).allowed
    for n in range(1, 600):
        decision = await limiter.hit([Rule("one", f"{n}/1h"), Rule("other", f"{n}/2h")], f"key-{n}")
        assert (decision.source, decision.remaining) == ("redis", n - 1)
