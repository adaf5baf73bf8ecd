"""A deadline that is counted in looks: a process that was frozen reads what has come before it judges."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

Answer = TypeVar("Answer")


async def within_looks(wait: Callable[[], Awaitable[Answer]], looks: int, look_s: float) -> Answer:
    """Return what `wait` does. Raises `TimeoutError` after so many looks, `look_s` apart.

    A timer that ran out while the process was stopped would go off before the answer is read, which has come long
    since; of these only the look that was waiting does. What `wait` raises comes in an exception group.
    """

    async def watch() -> None:
        for _ in range(looks):
            await anyio.sleep(look_s)
        raise TimeoutError(f"no answer for {looks * look_s:.1f} s")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        answer = await wait()
        tasks.cancel_scope.cancel()
    return answer
