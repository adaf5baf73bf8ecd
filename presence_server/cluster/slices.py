"""Work on many rooms, done in slices, so that no turn of the loop is longer than one of them takes."""

import asyncio
from collections.abc import Callable
from typing import Final

STEPS_MAX: Final = 50
"""Steps in one turn of the loop, of 20 to 100 µs each. They are counted, not timed, so that a simulated run repeats."""


class Slices:
    """Calls `take_step()` again and again, until it returns that there is nothing to do at present.

    The first slice is done by whoever adds work, so that what fits into one waits for no other turn of the loop.
    """

    def __init__(self, take_step: Callable[[], bool]) -> None:
        self._take_step = take_step
        self._is_scheduled = False
        self._is_working = False

    def work(self) -> None:
        """Do a slice, unless one is being done, or is to be done in a turn to come."""
        if self._is_scheduled or self._is_working:
            return
        self._is_working = True
        try:
            is_over = any(not self._take_step() for _ in range(STEPS_MAX))
        finally:
            self._is_working = False
        if not is_over:
            self.work_soon()

    def work_soon(self) -> None:
        """Do a slice in the next turn of the loop."""
        if not (self._is_scheduled or self._is_working):
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._work_now)

    def _work_now(self) -> None:
        self._is_scheduled = False
        self.work()
