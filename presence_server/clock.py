"""The one place that reads the clock.

Deadlines go by awake time: a process that was stopped, or whose loop was blocked, for more than a second
moves all its deadlines by that gap, so that it reads what has come in before it judges anybody.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

GAP_MS: Final = 1_000
"""Readings further apart than this mean that the process was not running in between."""


class Clock(Protocol):
    """What tells the time; tests move theirs by hand."""

    def now_ms(self) -> int:
        """Milliseconds on a clock that only moves forward: for deadlines and intervals."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 in UTC: for what people and other systems read."""

    def follow(self, wall_ms: int) -> None:
        """Tell the wall time of another clock, which has just been read, from now on."""

    @property
    def suspended_ms(self) -> int:
        """For how long the process has not been running in all, as far as `now_ms` has noticed."""

    @property
    def stepped_ms(self) -> int:
        """By how much the clock that is followed has been put forward in all, by more than a second each time."""


class SystemClock:
    """The process's clock. `monotonic_ns` and `time_ns` are the machine's.

    Something must read `now_ms` at least twice within `GAP_MS`, or the time between is taken for a
    freeze; the node's sweep, every 250 ms, sees to that.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._time_ns = time_ns
        self._last_ms = self._monotonic_ms()
        self._ahead_ms: int | None = None
        self.suspended_ms = 0
        """For how long the process has not been running in all, as far as `now_ms` has noticed."""
        self.stepped_ms = 0
        """By how much the clock that is followed has been put forward in all."""

    def now_ms(self) -> int:
        """Awake milliseconds: monotonic time without the gaps."""
        reading = self._monotonic_ms()
        gap = reading - self._last_ms
        if gap > GAP_MS:
            self.suspended_ms += gap
        self._last_ms = reading
        return reading - self.suspended_ms

    def wall_ms(self) -> int:
        """Milliseconds since 1970, by the clock that is followed or else the machine's."""
        if self._ahead_ms is None:
            return self._time_ns() // 1_000_000
        return self._monotonic_ms() + self._ahead_ms

    def follow(self, wall_ms: int) -> None:
        """Tell the wall time of another clock, such as the store's, whatever this machine's says."""
        ahead_ms = wall_ms - self._monotonic_ms()
        if self._ahead_ms is not None and ahead_ms - self._ahead_ms > GAP_MS:
            self.stepped_ms += ahead_ms - self._ahead_ms
        self._ahead_ms = ahead_ms

    def _monotonic_ms(self) -> int:
        return self._monotonic_ns() // 1_000_000
