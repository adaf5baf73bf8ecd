"""Decisions of a limiter, asked for one after the other while its store fails over."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from presence_server.throttle import Limiter, Rule
from tests.support.waiting import until

DEADLINE_MS = 200
SLOW_S = 3.0
"""A decision that took longer, on a machine where every core is busy, has waited for more than its deadline."""
RULE = Rule("failover", "1000000/3600s")


class Hits:
    """What was decided, for some keys in turn."""

    def __init__(self, limiter: Limiter, keys: Sequence[str]) -> None:
        self.limiter = limiter
        self.keys = keys
        self.asked: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        """What the store has said to have counted."""
        self.sources: Counter[str] = Counter()
        self.slowest_s = 0.0

    async def go_on(self) -> None:
        """Ask, for ever."""
        while True:
            for key in self.keys:
                began_s = time.monotonic()
                self.asked[key] += 1
                decision = await self.limiter.hit(RULE, key)
                self.sources[decision.source] += 1
                self.stored[key] += decision.source == "redis"
                if decision.late != "self":
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            await anyio.sleep(0.005)

    async def counted(self, key: str) -> int:
        """Return how many the store has counted."""
        return 1_000_000 - (await self.limiter.peek(RULE, key)).remaining

    async def counted_again(self) -> None:
        """Wait until every key is counted by the store."""
        for key in self.keys:
            before = self.stored[key]
            await until(lambda: self.stored[key] > before, lambda: (key, self.sources))  # noqa: B023 - awaited here

    async def check(self) -> None:
        """Check that no decision was slow, and that the store has counted none twice."""
        await self.counted_again()
        assert self.slowest_s < SLOW_S, self.slowest_s
        for key in self.keys:
            assert 0 < await self.counted(key) <= self.asked[key]


@asynccontextmanager
async def hitting(url: str, keys: Sequence[str] = ("ann",)) -> AsyncIterator[Hits]:
    """Have hits go on."""
    async with Limiter([RULE], redis=url, deadline_ms=DEADLINE_MS) as limiter:
        assert await limiter.connect(10)
        hits = Hits(limiter, keys)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hits.go_on)
            yield hits
            tasks.cancel_scope.cancel()
