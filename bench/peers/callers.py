"""Callers of one limiter: python -m bench.peers.callers LIBRARY URL.

Says `ready`. Each line of standard input is a command, a JSON list, and is answered by a line.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import msgspec

from bench.machine import uses_uvloop
from bench.peers.libraries import LIBRARIES, Asked

KEYS: Final = 1_000
NAMES: Final = [f"key-{n}" for n in range(KEYS)]
SETTLED_S: Final = 20


class Timed(msgspec.Struct):
    """What callers found."""

    rate: float
    """Decisions a second."""
    p50_us: float
    p99_us: float
    from_store: float
    """The part of the decisions that the store made."""


def _timed(asked: Asked, took_s: list[float], lasted_s: float, elsewhere: int) -> Timed:
    took_s.sort()
    number = len(took_s)
    return Timed(
        rate=number / lasted_s,
        p50_us=took_s[number // 2] * 1e6,
        p99_us=took_s[number * 99 // 100] * 1e6,
        from_store=1 - (asked.elsewhere - elsewhere) / number,
    )


async def saturate(asked: Asked, callers: int, seconds: float) -> Timed:
    """Have each caller ask for the next decision when it has the last."""
    hit, elsewhere = asked.hit, asked.elsewhere
    took_s: list[float] = []
    begun = time.perf_counter()
    until = begun + seconds

    async def call(number: int) -> None:
        before = time.perf_counter()
        while before < until:
            await hit(NAMES[number % KEYS])
            now = time.perf_counter()
            took_s.append(now - before)
            before = now
            number += callers

    await asyncio.gather(*map(call, range(callers)))
    return _timed(asked, took_s, time.perf_counter() - begun, elsewhere)


async def pace(asked: Asked, rate: int, seconds: float) -> Timed:
    """Ask at this rate, whenever the answers come."""
    hit, elsewhere = asked.hit, asked.elsewhere
    took_s: list[float] = []

    async def call(key: str) -> None:
        before = time.perf_counter()
        await hit(key)
        took_s.append(time.perf_counter() - before)

    calls = []
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, begun + number / rate - time.perf_counter()))
        calls.append(asyncio.create_task(call(NAMES[number % KEYS])))
    await asyncio.gather(*calls)
    return _timed(asked, took_s, time.perf_counter() - begun, elsewhere)


async def repeat(asked: Asked, calls: int) -> float:
    """Call one after the other; return how long a call takes, in µs."""
    hit = asked.hit
    begun = time.perf_counter()
    for number in range(calls):
        await hit(NAMES[number % KEYS])
    return (time.perf_counter() - begun) / calls * 1e6


async def settle(asked: Asked) -> None:
    """Return when the store decides again."""
    until = time.monotonic() + SETTLED_S
    while True:
        elsewhere = asked.elsewhere
        await asked.hit(NAMES[0])
        if asked.elsewhere == elsewhere:
            return
        if time.monotonic() > until:
            raise TimeoutError("the store does not decide again")
        await asyncio.sleep(0.01)


COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "saturate": saturate,
    "pace": pace,
    "repeat": repeat,
    "settle": settle,
}


async def _serve(library: str, url: str) -> None:
    async with LIBRARIES[library](url) as asked:
        await asked.hit(NAMES[0])
        gc.collect()
        gc.freeze()  # what the libraries have imported is nobody's garbage
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *arguments = msgspec.json.decode(line)
            found = await COMMANDS[name](asked, *arguments)
            print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    anyio.run(_serve, sys.argv[1], sys.argv[2], backend_options={"use_uvloop": uses_uvloop()})
