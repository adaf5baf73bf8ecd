"""What travels to the store and back over the limiter's connection: calls, replies, and the connection itself."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.batch import CALL_MAX
from presence_server.throttle.breaker import FAILURES_MAX
from presence_server.throttle.flight_dispatch import BATCH_S, FLIGHTS_MAX
from presence_server.throttle.redis import LOOK_AT_CLOCK
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

ONE, TWO = Rule("one", "1/1h"), Rule("two", "2/1h")
LONG_MS = 20_000
"""A deadline that a busy machine keeps."""


@asynccontextmanager
async def limited(url: str, deadline_ms: int = LONG_MS) -> AsyncIterator[Limiter]:
    async with Limiter([ONE, TWO], redis=url, deadline_ms=deadline_ms) as limiter:
        assert await limiter.connect(DEADLINE_S)
        yield limiter


def called(server: RedisServer, command: str) -> int:
    """Return how often the server has carried out a command."""
    return int(server.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def subscribers(server: RedisServer) -> list[bytes]:
    """Return which connections have subscribed."""
    return re.findall(rb"(?m)^id=(\d+) .* sub=1 ", server.ask("CLIENT", "LIST"))


async def decided(limiter: Limiter, source: str, key: str) -> None:
    """Hit until a decision comes from `source`."""
    async with asyncio.timeout(DEADLINE_S):
        while (await limiter.hit("one", key)).source != source:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def test_no_call_has_more_keys_than_it_may(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter:
        before = called(empty_server, "evalsha")
        hits = [asyncio.ensure_future(limiter.hit("one", f"k{n}")) for n in range(5 * CALL_MAX)]
        assert {decision.source for decision in await asyncio.gather(*hits)} == {"redis"}
        assert 5 <= called(empty_server, "evalsha") - before <= 8


async def test_what_is_asked_for_in_one_turn_travels_together(empty_server: RedisServer) -> None:
    async with limited(empty_server.url) as limiter:
        before = called(empty_server, "evalsha")
        hits = [asyncio.ensure_future(limiter.hit("one", f"k{n}")) for n in range(CALL_MAX)]
        await asyncio.gather(*hits)
        assert called(empty_server, "evalsha") - before <= 3


@pytest.mark.parametrize("mixed", [False, True])
async def test_of_many_batches_in_one_call_each_is_told_and_remembers_its_own(
    server: RedisServer, mixed: bool
) -> None:
    """TokenBatches of a store that does not answer for a while; which keys are refused follows no order."""
    refused = [n for n in range(40) if n * n % 7 in {1, 4}]
    async with limited(server.url) as limiter:
        for n in refused:
            assert (await limiter.hit("one", f"k{n}")).allowed
        server.freeze()
        asked: list[asyncio.Future[Decision]] = []
        for n in range(40):
            rules = ["one", "two"] if mixed and n % 3 == 0 else "one"
            asked.append(asyncio.ensure_future(limiter.hit(rules, f"k{n}")))
            if n % 2 or n < 2 * FLIGHTS_MAX:
                await asyncio.sleep(2 * BATCH_S)  # so that a batch is what is asked for until then
        server.thaw()
        decisions = await asyncio.gather(*asked)
        assert {decision.source for decision in decisions} == {"redis"}
        assert [n for n, decision in enumerate(decisions) if not decision.allowed] == refused
        again = [(await limiter.hit("one", f"k{n}")).source for n in range(40)]
        assert [n for n, source in enumerate(again) if source == "deny_cache"] == refused


async def test_answers_are_handed_out_for_a_turn_and_others_are_heard_between(
    empty_server: RedisServer,
) -> None:
    async with limited(empty_server.url) as limiter:
        loop, told, most = asyncio.get_running_loop(), [0], [0]
        all_told = loop.create_future()

        def answered(decision: Decision) -> None:
            end_s = loop.time() + 0.002
            while loop.time() < end_s:
                pass
            told[0] += 1
            most[0] = max(most[0], told[0] - seen[0])
            if told[0] == 2 * CALL_MAX:
                all_told.set_result(None)

        seen = [0]
        for n in range(2 * CALL_MAX):
            limiter.decide("one", f"k{n}", 1, answered)
        while not all_told.done():
            seen[0] = told[0]
            await asyncio.sleep(0)
        assert most[0] <= 3 * LOOK_AT_CLOCK


async def test_who_waits_for_a_connection_waits_also_for_the_next(server: RedisServer) -> None:
    async with limited(server.url, 200) as limiter:
        assert await limiter.connect(0.1)
        server.kill()
        await decided(limiter, "open", "k")
        assert not await limiter.connect(0.3)
        waiting = asyncio.ensure_future(limiter.connect(DEADLINE_S))
        server.start()
        assert await waiting
        await decided(limiter, "redis", "after")


async def test_a_store_that_may_forget_is_warned_of_once_and_again_when_it_may_otherwise(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with Proxy(server) as network:
        with caplog.at_level(logging.WARNING, "presence_server.throttle"):
            async with limited(network.url, 200) as limiter:
                for n, policy in enumerate(["allkeys-lru", "allkeys-random", "noeviction"]):
                    network.cut()
                    await decided(limiter, "open", f"away{n}")
                    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
                    network.heal()
                    await decided(limiter, "redis", f"back{n}")
    warned = [record.getMessage() for record in caplog.records if "maxmemory-policy" in record.getMessage()]
    assert [" is allkeys-lru:" in line for line in warned] == [True, False]
    assert " is allkeys-random:" in warned[1]


async def test_why_the_store_is_not_asked_is_what_it_said(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("REPLICAOF", "127.0.0.1", "1")
    with caplog.at_level(logging.INFO, "presence_server.throttle"):
        async with limited(server.url) as limiter:
            for n in range(FAILURES_MAX):
                assert (await limiter.hit("one", f"k{n}")).source == "open"
            assert limiter.broken
            warned = [record.getMessage() for record in caplog.records if "for now" in record.getMessage()]
            assert len(warned) == 1
            assert "READONLY" in warned[0]
            server.ask("REPLICAOF", "NO", "ONE")
            await decided(limiter, "redis", "after")
    assert [r.getMessage() for r in caplog.records].count("the limiter asks its store again") == 1


async def test_an_idle_connection_is_asked_for_a_sign_of_life_and_kept(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence_server.throttle.store_connection.IDLE_PING_S", 0.05)
    async with limited(server.url) as limiter:
        connected = subscribers(server)
        asked = called(server, "ping")
        await until(lambda: called(server, "ping") >= asked + 3)
        assert (await limiter.hit("one", "k")).source == "redis"
        assert len(connected) == 1
        assert subscribers(server) == connected


async def test_a_script_that_the_store_has_forgotten_is_sent_again(server: RedisServer) -> None:
    async with limited(server.url) as limiter:
        for n in range(3):
            server.ask("SCRIPT", "FLUSH")
            decision = await limiter.hit("one", f"k{n}")
            assert (decision.source, decision.allowed) == ("redis", True)
            assert (await limiter.hit("one", f"k{n}")).allowed is False
