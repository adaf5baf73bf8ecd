"""The store is judged, never this process: a limiter that is busy, far from its store, or in several loops."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import uvloop
from redis.asyncio import ConnectionPool, Redis, UnixDomainSocketConnection

from presence_server.throttle import Decision, Limiter, Rule
from tests.support.busy import be_busy
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until
from tests.throttle.limited import FIVE, LONG_MS, decided, limited, sources

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": u}), id=f"uvloop={u}") for u in (True, False)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


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
