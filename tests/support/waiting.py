"""Waiting for a condition, as long as it takes on a slow machine."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

DEADLINE_S = 15 if "MUTANT" in os.environ else 60
"""A mutant that breaks a connection waits this out in every test that needs one."""
Answer = TypeVar("Answer")


async def until(
    condition: Callable[[], object], what: Callable[[], object] = lambda: "", deadline_s: float = DEADLINE_S
) -> float:
    """Wait for a condition and return after how many seconds it held; fails with `what()`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < deadline_s, what()
        await anyio.sleep(0.01)
    return time.monotonic() - begun


async def eventually(ask: Callable[[], Awaitable[Answer]], right: Callable[[Answer], object]) -> Answer:
    """Ask until the answer is right, and return it; fails with the last one."""
    begun = time.monotonic()
    while not right(answer := await ask()):
        assert time.monotonic() - begun < DEADLINE_S, answer
        await anyio.sleep(0.02)
    return answer
