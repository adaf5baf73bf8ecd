"""The store is judged, never this process: a limiter that is busy, far from its store, or in several loops."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import uvloop
from redis.asyncio import ConnectionPool, Redis, UnixDomainSocketConnection

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.errors import StoreUnavailableError
from presence_server.throttle.leases import Leases
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

FIVE = Rule("five", "5/1h")
LONG_MS = 20_000
LEASES = 10_000
"""More than can be renewed within a decision's deadline."""


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": u}), id=f"uvloop={u}") for u in (True, False)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@asynccontextmanager
async def limited(url: str, **options: object) -> AsyncIterator[Limiter]:
    async with Limiter([FIVE], redis=url, **options) as limiter:  # type: ignore[arg-type]  # any of them
        assert await limiter.connect(DEADLINE_S)
        yield limiter


def be_busy(seconds: float) -> None:
    """Keep this process, and its loop, from everything else."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


def sources(decisions: list[Decision]) -> set[str]:
    return {decision.source for decision in decisions}


async def decided(limiter: Limiter, source: str, key: str = "k") -> None:
    """Hit until a decision comes from `source`."""
    async with asyncio.timeout(DEADLINE_S):
        while (await limiter.hit("five", key)).source != source:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


FLOODS_MAX = 20


async def flooded(limiter: Limiter, keys: Callable[[int], Sequence[str]], busy_s: float) -> list[Decision]:
    """Return the decisions of the first flood, of the keys by its number, in which the store kept its deadline.

    On a machine whose every core is busy the store may not run for so long: then it is late, and nobody else is.
    """

    async def attempt(key: str) -> Decision:
        be_busy(busy_s)
        decision = await limiter.hit("five", key)
        be_busy(busy_s)
        return decision

    for number in range(FLOODS_MAX):
        decisions = await asyncio.gather(*(attempt(key) for key in keys(number)))
        others = [decision for decision in decisions if decision.source not in {"redis", "deny_cache"}]
        if not others:
            return decisions
        assert {(decision.source, decision.late) for decision in others} <= {("open", "store"), ("open", "")}
        await decided(limiter, "redis", f"after {number}")
    raise AssertionError("the store was never in time")


async def test_a_flood_of_one_key_by_a_busy_process_is_held_to_the_limit(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter:
        decisions = await flooded(limiter, lambda number: [f"k{number}"] * 1_000, 100e-6)
    assert sum(decision.allowed for decision in decisions) == 5


async def test_a_flood_of_many_keys_by_a_busy_process_is_decided_by_the_store(
    empty_server: RedisServer,
) -> None:
    async with limited(empty_server.url) as limiter:
        decisions = await flooded(
            limiter, lambda number: [f"k{number}-{n % 500}" for n in range(5_000)], 50e-6
        )
    assert sum(decision.allowed for decision in decisions) == 2_500


async def test_a_pause_of_this_process_is_not_the_stores(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter:
        hits = [asyncio.ensure_future(limiter.hit("five", f"k{n}")) for n in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        be_busy(0.315)
        decisions = await asyncio.gather(*hits)
        assert sources(decisions) == {"redis"}
        assert [decision.late for decision in decisions[1:]] == ["self"] * 49, (
            "the first may be answered before"
        )


async def test_every_decision_is_answered_where_turns_outlast_the_deadline(empty_server: RedisServer) -> None:
    async with limited(empty_server.url, deadline_ms=2) as limiter:
        answers: list[Decision] = []

        def answered(left: int, decision: Decision) -> None:
            answers.append(decision)
            be_busy(0.003)
            if left:
                limiter.decide("five", f"k{left}", 1, partial(answered, left - 1))

        for n in range(20):
            limiter.decide("five", f"first{n}", 1, partial(answered, 20))
        await until(lambda: len(answers) >= 20 * 21, lambda: len(answers))
        await limiter.hit("five", "last")
        assert len(answers) == 20 * 21


@pytest.mark.parametrize("round_trip_ms", [1, 5, 20, 40])
async def test_a_store_that_is_far_away_is_connected_to_and_decides(
    empty_server: RedisServer, round_trip_ms: int
) -> None:
    async with (
        Proxy(empty_server, round_trip_ms / 2_000) as network,
        limited(network.url, deadline_ms=1_000) as limiter,
    ):
        decisions = await asyncio.gather(*(limiter.hit("five", f"k{n}") for n in range(300)))
        assert sources(decisions) == {"redis"}


async def test_connecting_takes_its_time_while_decisions_do_not_wait_for_it(
    empty_server: RedisServer,
) -> None:
    async with (
        Proxy(empty_server, 0.1) as network,
        Limiter([FIVE], redis=network.url, deadline_ms=50) as limiter,
    ):
        assert (await limiter.hit("five", "k")).source == "open"
        assert await limiter.connect(DEADLINE_S)


async def test_a_stall_of_the_store_neither_opens_the_breaker_nor_costs_a_connection(
    server: RedisServer,
) -> None:
    async with limited(server.url) as limiter:
        await limiter.hit("five", "warm")
        connections = server.ask("INFO", "stats")["total_connections_received"]
        server.freeze()
        during = [asyncio.ensure_future(limiter.hit("five", f"k{n}")) for n in range(10)]
        for decision in await asyncio.gather(*during):
            assert (decision.source, decision.late) == ("open", "store")
        server.thaw()
        after: list[Decision] = []
        while not after or after[-1].source != "redis":
            assert len(after) < 1_000
            after.append(await limiter.hit("five", "after"))
        assert not limiter.broken
        assert server.ask("INFO", "stats")["total_connections_received"] - connections <= 1, "the test's own"


class Stumbling(UnixDomainSocketConnection):
    """A connection of redis-py that fails as none should, the first times."""

    failures = 3

    async def connect(self) -> None:
        Stumbling.failures -= 1
        if Stumbling.failures >= 0:
            raise AttributeError("'NoneType' object has no attribute 'write'")
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py


async def test_whatever_a_connection_fails_with_another_is_made(empty_server: RedisServer) -> None:
    Stumbling.failures = 3
    path = empty_server.url.removeprefix("unix://")
    client = Redis(connection_pool=ConnectionPool(connection_class=Stumbling, path=path))
    async with Limiter([FIVE], redis=client, deadline_ms=LONG_MS) as limiter:
        assert await limiter.connect(DEADLINE_S)
        assert (await limiter.hit("five", "k")).source == "redis"
    assert Stumbling.failures < 0
    await client.aclose()


async def test_it_goes_on_in_the_next_event_loop(empty_server: RedisServer) -> None:
    def run_in_loops(count: int) -> list[Decision]:
        limiter = Limiter([FIVE], redis=empty_server.url, deadline_ms=LONG_MS)

        async def hit() -> Decision:
            return await limiter.hit("five", "k")

        return [uvloop.run(hit()) if n % 2 else asyncio.run(hit()) for n in range(count)]

    decisions = await asyncio.to_thread(run_in_loops, 6)
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert sources(decisions) == {"redis"}


async def test_what_was_asked_in_an_event_loop_that_ended_keeps_nobody_waiting(
    empty_server: RedisServer,
) -> None:
    limiter = Limiter([Rule("ahead", "50/1h", lease=10)], redis=empty_server.url, deadline_ms=LONG_MS)

    async def give_up() -> None:
        hit = asyncio.ensure_future(limiter.hit("ahead", "k"))
        await asyncio.sleep(0)
        hit.cancel()

    async def hit() -> Decision:
        async with asyncio.timeout(DEADLINE_S):
            return await limiter.hit("ahead", "k")

    def in_loops() -> Decision:
        asyncio.run(give_up())
        return asyncio.run(hit())

    assert (await asyncio.to_thread(in_loops)).source == "redis"


async def test_two_event_loops_at_a_time_are_an_error_that_says_so(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter:
        await limiter.hit("five", "k")
        raised: list[Exception] = []

        def elsewhere() -> None:
            try:
                asyncio.run(limiter.hit("five", "k"))
            except RuntimeError as exc:
                raised.append(exc)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert "in two event loops" in str(raised)
        assert (await limiter.hit("five", "k")).source == "redis"


@pytest.mark.parametrize("on_error", ["open", "local"])
async def test_what_an_operator_says_while_the_store_is_away_is_not_lost_in_silence(
    server: RedisServer, on_error: str
) -> None:
    async with limited(server.url, on_error=on_error) as limiter:
        server.kill()
        for change in (
            limiter.block("five", "k", 60_000),
            limiter.reset("five", "k"),
            limiter.refund("five", "k"),
        ):
            with pytest.raises(StoreUnavailableError, match="of rule 'five'"):
                await change


async def test_what_was_to_be_forgotten_while_the_subscription_was_lost_is_forgotten(
    empty_server: RedisServer,
) -> None:
    async with (
        Proxy(empty_server) as network,
        limited(network.url, deadline_ms=LONG_MS) as limiter,
        limited(empty_server.url, deadline_ms=LONG_MS) as operator,
    ):
        for _ in range(6):
            refused = await limiter.hit("five", "k")
        assert not refused.allowed
        network.cut()
        await operator.reset("five", "k")
        network.heal()
        await decided(limiter, "redis")
        assert (await limiter.peek("five", "k")).remaining == 4


async def test_a_reset_right_behind_a_refusal_is_not_undone_by_it(empty_server: RedisServer) -> None:
    """Whatever is read in one turn of the loop: the refusal, and what says to forget it."""
    async with (
        limited(empty_server.url, deadline_ms=LONG_MS) as limiter,
        limited(empty_server.url, deadline_ms=LONG_MS) as other,
    ):
        for key in ("same process", "another"):
            for _ in range(5):
                await limiter.hit("five", key)
        refused = asyncio.ensure_future(limiter.hit("five", "same process"))
        await asyncio.sleep(0)
        await limiter.reset("five", "same process")
        assert not (await refused).allowed
        assert (await limiter.hit("five", "same process")).allowed

        refused = asyncio.ensure_future(limiter.hit("five", "another"))
        await asyncio.sleep(0)
        with anyio.fail_after(DEADLINE_S):
            await asyncio.to_thread(empty_server.ask, "PING")
            reset = asyncio.ensure_future(other.reset("five", "another"))
            be_busy(0.2)
            await reset
            assert not (await refused).allowed
            await decided(limiter, "redis", "another")


async def test_a_refusal_by_one_version_of_a_rule_says_nothing_of_another(empty_server: RedisServer) -> None:
    async with limited(empty_server.url, deadline_ms=LONG_MS) as limiter:
        free, paid = Rule("plan", "2/1h"), Rule("plan", "100/1h")
        assert [(await limiter.hit(free, "k")).allowed for _ in range(3)] == [True, True, False]
        assert (await limiter.hit(paid, "k")).remaining == 97
        assert (await limiter.hit(free, "k")).source in {"redis", "deny_cache"}


@pytest.mark.parametrize("shared", [True, False])
async def test_what_fails_in_the_applications_own_functions_keeps_nobody_from_a_decision(
    empty_server: RedisServer, shared: bool
) -> None:
    def fail(rule: str, key: str, cost: int) -> bool:
        raise ZeroDivisionError

    def watch(decision: Decision) -> None:
        raise ZeroDivisionError

    url = empty_server.url if shared else ""
    async with Limiter([FIVE], redis=url, on_decision=watch, deadline_ms=LONG_MS) as limiter:
        assert (await limiter.hit("five", "k")).allowed
        decisions: list[Decision] = []
        limiter.decide("five", "k", 1, decisions.append)
        await until(lambda: decisions)
    async with Limiter([FIVE], redis="redis://127.0.0.1:1", on_error=fail) as limiter:
        assert (await limiter.hit("five", "k")).source == "open"


@pytest.mark.parametrize("cost", [1.5, 2**70, True, "1", 0])
async def test_a_cost_that_is_no_number_of_hits_is_refused_before_it_is_sent(
    empty_server: RedisServer, cost: object
) -> None:
    wrong: Any = cost
    async with limited(empty_server.url, deadline_ms=LONG_MS) as limiter:
        for asking in (limiter.hit, limiter.peek, limiter.charge, limiter.refund, limiter.block):
            innocent = asyncio.ensure_future(limiter.hit("five", "k"))
            if wrong == 1 and asking in {limiter.hit, limiter.peek}:
                continue
            with pytest.raises(ValueError, match=r"whole number|at least 1 ms|admits a cost"):
                await asking("five", "k", wrong)
            assert (await innocent).source in {"redis", "deny_cache"}


async def test_a_refusal_under_way_while_the_rules_change_is_not_remembered(
    empty_server: RedisServer,
) -> None:
    async with limited(empty_server.url, deadline_ms=LONG_MS) as limiter:
        for _ in range(5):
            await limiter.hit("five", "k")
        refused = asyncio.ensure_future(limiter.hit("five", "k"))
        await asyncio.sleep(0)
        limiter.change_rules([Rule("five", "8/1h")])
        assert not (await refused).allowed
        assert (await limiter.hit("five", "k")).allowed


async def test_closed_refuses_whatever_rule_comes_first() -> None:
    rules = [Rule("tried", "5/1h", shadow=True), Rule("real", "5/1h")]
    async with Limiter(rules, redis="redis://127.0.0.1:1", on_error="closed") as limiter:
        for order in (["tried", "real"], ["real", "tried"]):
            decision = await limiter.hit(order, "k")
            assert (decision.allowed, decision.rule, decision.source) == (False, "real", "closed")
        tried = await limiter.hit("tried", "k")
        assert (tried.allowed, tried.would_deny) == (True, True)


async def test_thousands_of_leases_are_renewed_beside_decisions(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter, limited(empty_server.url, deadline_ms=LONG_MS) as other:
        holding, wanting = Leases(limiter, 1, 60_000), Leases(other, 1, 60_000)
        held: list[bool] = []
        for n in range(LEASES):
            holding.acquire_lease(f"address-{n}", held.append)
        await until(lambda: len(held) == LEASES, lambda: len(held))
        assert all(held)
        empty_server.ask("FLUSHALL")
        holding.renew_leases()
        holding.renew_leases()
        await until(lambda: empty_server.ask("DBSIZE") == LEASES, lambda: empty_server.ask("DBSIZE"))
        admitted: list[bool] = []
        for n in range(0, LEASES, LEASES // 50):
            wanting.acquire_lease(f"address-{n}", admitted.append)
        await until(lambda: len(admitted) == 50)
        assert not any(admitted)
    empty_server.ask("FLUSHALL")  # looking at the TTL of each would take longer than all this


async def test_a_lease_given_back_and_taken_again_in_one_turn_is_counted(empty_server: RedisServer) -> None:
    async with (
        limited(empty_server.url, deadline_ms=LONG_MS) as one,
        limited(empty_server.url, deadline_ms=LONG_MS) as other,
    ):
        holding, wanting = Leases(one, 10, 60_000), Leases(other, 10, 60_000)
        held: list[bool] = []
        for _ in range(10):
            holding.acquire_lease("k", held.append)
        await until(lambda: len(held) == 10)
        for _ in range(10):
            holding.release_lease("k")
            holding.acquire_lease("k", held.append)
        await until(lambda: len(held) == 20)
        assert all(held)
        await one.peek("five", "after what was sent")
        refused: list[bool] = []
        wanting.acquire_lease("k", refused.append)
        await until(lambda: refused)
        assert refused == [False]


async def test_who_asks_for_more_than_can_be_asked_is_counted_here_and_not_let_through(
    empty_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence_server.throttle.flight_dispatch.DECISIONS_MAX", 500)
    monkeypatch.setattr("presence_server.throttle.batch.BATCH_DECISIONS_MAX", 62)
    async with limited(empty_server.url, deadline_ms=LONG_MS) as limiter:
        strangers = [asyncio.ensure_future(limiter.hit("five", f"k{n}")) for n in range(1_000)]
        hits = [asyncio.ensure_future(limiter.hit("five", "alice")) for _ in range(100)]
        decisions = await asyncio.gather(*hits)
        assert sum(decision.allowed for decision in decisions) == 5
        assert {(decision.source, decision.late) for decision in decisions} == {("local", "self")}
        await asyncio.gather(*strangers)


async def test_refunds_leave_tokens_that_were_taken_ahead(empty_server: RedisServer) -> None:
    ahead = Rule("ahead", "1000/1h", lease=50)
    async with Limiter([ahead], redis=empty_server.url, deadline_ms=LONG_MS) as limiter:
        for _ in range(60):
            assert (await limiter.hit("ahead", "k")).allowed
            await limiter.refund("ahead", "k")
        assert (await limiter.peek("ahead", "k")).remaining >= 1_000 - 2 * 50


async def test_a_lease_is_among_the_decisions_that_are_watched() -> None:
    seen: list[Decision] = []
    async with Limiter([], on_decision=seen.append) as limiter:
        leases = Leases(limiter, 1, 60_000)
        for _ in range(2):
            leases.acquire_lease("k", lambda admitted: None)
    assert [(d.rule, d.allowed, d.source) for d in seen] == [
        ("concurrent", True, "local"),
        ("concurrent", False, "local"),
    ]


async def test_a_store_that_may_forget_is_warned_of(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with caplog.at_level(logging.WARNING, "presence_server.throttle"):
        async with limited(server.url):
            pass
    assert "maxmemory-policy is allkeys-lru" in caplog.text


async def test_the_breaker_says_when_it_opens_and_closes(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "presence_server.throttle"):
        async with limited(server.url) as limiter:
            server.freeze()
            while not limiter.broken:
                await limiter.hit("five", "k")
            assert "does not ask its store for now: no reply in time" in caplog.text
            server.thaw()
            await decided(limiter, "redis")
            assert "asks its store again" in caplog.text


async def test_waiting_ends_when_the_rule_admits_or_at_once_where_that_takes_too_long() -> None:
    async with Limiter([Rule("two", "2/200ms"), FIVE]) as limiter:
        began_s = time.monotonic()
        decisions = [await limiter.wait("two", "k") for _ in range(5)]
        assert all(decision.allowed for decision in decisions)
        assert time.monotonic() - began_s >= 0.39
        for _ in range(5):
            await limiter.hit("five", "k")
        refused = await limiter.wait("five", "k", timeout_s=5)
        assert not refused.allowed
        assert refused.retry_after > 5
