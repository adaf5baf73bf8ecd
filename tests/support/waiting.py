"""Waiting for a condition, as long as it takes on a slow machine."""

import time
from collections.abc import Callable

import anyio

DEADLINE_S = 30


async def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> float:
    """Wait for a condition and return after how many seconds it held; fails with `what()`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < DEADLINE_S, what()
        await anyio.sleep(0.01)
    return time.monotonic() - begun
