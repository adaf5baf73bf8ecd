"""Decisions of the limiter as a library, against other limiters and against the store itself."""

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
from limits import RateLimitItemPerHour
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import Redis
from throttled.asyncio import RedisStore, Throttled, rate_limiter

from bench import report
from bench.machine import uses_uvloop
from bench.processes import MEASURED_CORE
from bench.store import Store, store
from presence_server.throttle import Limiter, Rule

CALLERS = 256
KEYS = 1_000
SATURATED_S = 0.5
MANY = 1_000_000_000
RATE = 5_000
PACED_S = 2
CALLS = 20_000
FLEXIBLE = Path(__file__).parent / "peers" / "flexible"
NAMES = [f"key-{n}" for n in range(KEYS)]
WHAT = f"""\
One process, {CALLERS} callers, each asking for the next decision when it has the last, over {KEYS:,} keys
that are never refused, fixed windows, for {SATURATED_S} s a round each: this limiter, `limits` and
`throttled-py` with their asyncio Redis stores (redis-py), `rate-limiter-flexible` with ioredis and its
automatic pipelining. The callers have one core, the store (Valkey on a unix socket) the other. Then
{RATE:,} decisions a second for {PACED_S} s, each timed, beside as many PINGs through redis-py. Then
{CALLS:,} calls one after the other in this process alone, against `limits`' memory store."""
Hit = Callable[[str], Awaitable[Any]]


def measure(rounds: int) -> report.Result:
    """Run it."""
    with store() as shared:
        os.sched_setaffinity(shared.pid, {MEASURED_CORE})
        flexible = _flexible(shared)
        try:
            found: dict[str, list[float]] = anyio.run(
                _measure, shared, flexible, rounds, backend_options={"use_uvloop": uses_uvloop()}
            )
        finally:
            flexible.kill()
            flexible.communicate()
    ours = found.pop("presence-server")
    thousand = [rate / 1_000 for rate in ours]
    figures = [report.per_round("shared decisions, this limiter", "thousand/s", thousand)]
    targets = [report.Target(figure="shared decisions, this limiter", bound="at least", limit=100)]
    for name, least in (("limits", 8), ("throttled-py", 8), ("rate-limiter-flexible", 3)):
        rates = found[name]
        figures.append(
            report.per_round(f"shared decisions, {name}", "thousand/s", [r / 1_000 for r in rates])
        )
        figures.append(report.ratio(f"shared decisions, this limiter / {name}", ours, rates))
        targets.append(
            report.Target(figure=f"shared decisions, this limiter / {name}", bound="at least", limit=least)
        )
    figures += [
        report.per_round("p99 of a decision at 5,000/s", "µs", found["p99"]),
        report.per_round("p99 of a PING at 5,000/s", "µs", found["p99 ping"]),
        report.ratio("p99, decision / PING", found["p99"], found["p99 ping"]),
        report.per_round("in-process decision, this limiter", "µs", found["memory"]),
        report.per_round("in-process decision, limits", "µs", found["memory limits"]),
        report.ratio("in-process, this limiter / limits", found["memory"], found["memory limits"]),
    ]
    targets += [
        report.Target(figure="p99, decision / PING", bound="at most", limit=3),
        report.Target(figure="in-process, this limiter / limits", bound="at most", limit=1),
    ]
    return report.Result(name="throttle", what=WHAT, figures=figures, targets=targets)


async def _measure(shared: Store, flexible: "subprocess.Popen[str]", rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        sides = {
            "presence-server": await stack.enter_async_context(_ours(shared.url)),
            "limits": _limits(
                RedisStorage(
                    f"async+redis+{shared.url}", implementation="redispy", max_connections=2 * CALLERS
                )
            ),
            "throttled-py": _throttled(shared),
        }
        ping = await stack.enter_async_context(Redis.from_url(shared.url))
        alone = await stack.enter_async_context(_ours(""))
        memory = _limits(MemoryStorage())
        gc.collect()
        gc.freeze()  # what four libraries have imported is nobody's garbage
        for number in range(rounds + 1):
            measured = {name: await _saturated(hit) for name, hit in sides.items()}
            measured["rate-limiter-flexible"] = _ask(flexible)
            measured["p99"] = await _paced(sides["presence-server"])
            measured["p99 ping"] = await _paced(lambda _: ping.ping())
            measured["memory"] = await _one_by_one(alone)
            measured["memory limits"] = await _one_by_one(memory)
            if number:
                for name, value in measured.items():
                    found.setdefault(name, []).append(value)
    return found


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Hit]:
    async with Limiter([Rule("many", f"{MANY}/1h")], redis=url, deadline_ms=5_000) as limiter:
        yield lambda key: limiter.hit("many", key)


def _limits(storage: Any) -> Hit:
    limiter, rate = FixedWindowRateLimiter(storage), RateLimitItemPerHour(MANY)
    return lambda key: limiter.hit(rate, key)


def _throttled(shared: Store) -> Hit:
    pool = {"CONNECTION_POOL_KWARGS": {"max_connections": 2 * CALLERS}}
    throttle = Throttled(
        using="fixed_window",
        quota=rate_limiter.per_hour(MANY),
        store=RedisStore(server=shared.url, options=pool),
    )
    return throttle.limit


def _flexible(shared: Store) -> "subprocess.Popen[str]":
    """Run the peer in Node.js; npm fetches it the first time."""
    if not (FLEXIBLE / "node_modules").exists():
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(command, cwd=FLEXIBLE, check=True)
    return subprocess.Popen(
        ["node", "saturate.js", shared.path],
        cwd=FLEXIBLE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(flexible: "subprocess.Popen[str]") -> float:
    assert flexible.stdin is not None
    assert flexible.stdout is not None
    flexible.stdin.write(f"{SATURATED_S}\n")
    flexible.stdin.flush()
    return float(flexible.stdout.readline())


async def _saturated(hit: Hit) -> float:
    """Return the decisions of a second."""
    decisions = 0
    begun = time.perf_counter()
    until = begun + SATURATED_S

    async def call(first: int) -> None:
        nonlocal decisions
        number = first
        while time.perf_counter() < until:
            await hit(NAMES[number % KEYS])
            decisions += 1
            number += CALLERS

    await asyncio.gather(*map(call, range(CALLERS)))
    return decisions / (time.perf_counter() - begun)


async def _paced(hit: Hit) -> float:
    """Return the p99 of how long a call takes at `RATE`, in µs."""
    took_us: list[float] = []

    async def call(key: str) -> None:
        begun = time.perf_counter()
        await hit(key)
        took_us.append((time.perf_counter() - begun) * 1e6)

    calls = []
    begun = time.perf_counter()
    for number in range(RATE * PACED_S):
        await asyncio.sleep(max(0, begun + number / RATE - time.perf_counter()))
        calls.append(asyncio.create_task(call(NAMES[number % KEYS])))
    await asyncio.gather(*calls)
    return quantiles(took_us, n=100)[98]


async def _one_by_one(hit: Hit) -> float:
    """Return how long a call takes, in µs."""
    begun = time.perf_counter()
    for number in range(CALLS):
        await hit(NAMES[number % KEYS])
    return (time.perf_counter() - begun) / CALLS * 1e6
