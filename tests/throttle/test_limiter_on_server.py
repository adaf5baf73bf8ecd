"""What a limiter on a store sees to: resets, refusals, costs, leases, changes of its rules, and what it logs."""

import asyncio
import logging
import time
from typing import Any

import anyio
import pytest

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.errors import StoreUnavailableError
from presence_server.throttle.leases import Leases
from tests.support.busy import be_busy
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until
from tests.throttle.limited import FIVE, LEASES, LONG_MS, decided, limited

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]


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
            if wrong == 1 and asking in {limiter.hit, limiter.peek}:
                continue  # what is hit all the time takes True for 1
            innocent = asyncio.ensure_future(limiter.hit("five", "k"))
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
