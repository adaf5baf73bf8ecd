"""A limiter of one rule on a store, and the decisions that tests wait for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from presence_server.throttle import Decision, Limiter, Rule
from tests.support.waiting import DEADLINE_S

FIVE = Rule("five", "5/1h")
LONG_MS = 20_000
LEASES = 10_000
"""More than can be renewed within a decision's deadline."""


@asynccontextmanager
async def limited(url: str, **options: object) -> AsyncIterator[Limiter]:
    async with Limiter([FIVE], redis=url, **options) as limiter:  # type: ignore[arg-type]  # any of them
        assert await limiter.connect(DEADLINE_S)
        yield limiter


def sources(decisions: list[Decision]) -> set[str]:
    return {decision.source for decision in decisions}


async def decided(limiter: Limiter, source: str, key: str = "k") -> None:
    """Hit until a decision comes from `source`."""
    async with asyncio.timeout(DEADLINE_S):
        while (await limiter.hit("five", key)).source != source:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
