"""The one place that reads the clock.

Deadlines go by monotonic time without suspensions: a process that was stopped, or whose loop was blocked, for more than
a second moves all its deadlines by that gap, so that it reads what has come in before it judges anybody.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

GAP_MS: Final = 1_000
"""Readings further apart than this mean that the process was not running in between."""
STEPS_MAX: Final = 100
"""Steps of a followed clock that are remembered; of more, the first are forgotten."""


class RepeatedTime(NamedTuple):
    """The times from `begin_ms`, when a clock was put back, to `end_ms`, which it had told before; empty: none."""

    begin_ms: int = 0
    end_ms: int = 0

    def earliest_ms(self, wall_ms: int) -> int:
        """Return the earliest time in the order of events that a time may have been, told by the present clock."""
        return self.begin_ms if self.begin_ms < wall_ms <= self.end_ms else wall_ms

    def and_from(self, now_ms: int, before_ms: int) -> "RepeatedTime":
        """Return these times with those of another step back, from `before_ms` to `now_ms`."""
        if now_ms > self.end_ms:
            return RepeatedTime(now_ms, before_ms)
        return RepeatedTime(min(self.begin_ms, now_ms), max(self.end_ms, before_ms))


class Steps:
    """The steps of a followed clock, each of more than a second, as the sum of all steps up to it."""

    __slots__ = ("_forgotten", "_moved_ms")

    def __init__(self) -> None:
        self._moved_ms = [0]
        self._forgotten = 0

    def __len__(self) -> int:
        """Return the number of steps so far."""
        return self._forgotten + len(self._moved_ms) - 1

    def add_step(self, by_ms: int) -> None:
        """Add a step; a negative one put the clock back."""
        self._moved_ms.append(self._moved_ms[-1] + by_ms)
        if len(self._moved_ms) > STEPS_MAX:
            del self._moved_ms[0]
            self._forgotten += 1

    def furthest_back_ms(self, since: int) -> int:
        """Return how far the steps after the first `since` have ever put the clock back, by their sum."""
        moved_ms = self._moved_ms[max(since - self._forgotten, 0) :]
        return moved_ms[0] - min(moved_ms)


class Clock(Protocol):
    """A clock; tests move theirs by hand."""

    def now_ms(self) -> int:
        """Milliseconds on a clock that only moves forward: for deadlines and intervals."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 in UTC: for what people and other systems read."""

    def follow(self, wall_ms: int) -> None:
        """Tell the wall time of another clock, which has just been read, from now on."""

    @property
    def suspended_ms(self) -> int:
        """The total time of suspensions, as far as `now_ms` has noticed them."""

    @property
    def stepped_ms(self) -> int:
        """The sum of the steps, of more than a second each, by which the followed clock was put forward."""

    @property
    def steps(self) -> Steps:
        """The steps of the clock that is followed."""

    @property
    def repeated_time(self) -> RepeatedTime:
        """The times that it has told twice because it was put back; those of long ago are left out."""


class Moment(NamedTuple):
    """A moment: `wall_ms` since 1970, by a clock that had been stepped `steps` times."""

    wall_ms: int
    steps: int

    @classmethod
    def now(cls, clock: Clock) -> "Moment":
        """Return the present."""
        return cls(clock.wall_ms(), len(clock.steps))

    def was_by(self, at_ms: int, clock: Clock) -> bool:
        """Tell whether this was, or may have been, no later than `at_ms` by the clock, which was maybe put back since.

        A clock that goes to and fro makes nothing older than by the furthest that it was ever back.
        """
        return self.wall_ms - clock.steps.furthest_back_ms(self.steps) <= at_ms


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
        """The total time of suspensions, as far as `now_ms` has noticed them."""
        self.stepped_ms = 0
        """The sum of the steps by which the followed clock was put forward."""
        self.steps = Steps()
        """The steps of the clock that is followed."""
        self.repeated_time = RepeatedTime()
        """The times that it has told twice because it was put back."""

    def now_ms(self) -> int:
        """Return monotonic milliseconds without suspensions: gaps of more than `GAP_MS` are left out."""
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
        """Tell the wall time of another clock, such as the store's, whatever this machine's says.

        What this machine's clock has told until then counts as told by the other one before a step.
        """
        before_ms = self.wall_ms()
        by_ms = wall_ms - before_ms
        if abs(by_ms) > GAP_MS:
            self.steps.add_step(by_ms)
        if by_ms > GAP_MS and self._ahead_ms is not None:  # nothing has expired by the machine's clock
            self.stepped_ms += by_ms
        if by_ms < -GAP_MS:
            self.repeated_time = self.repeated_time.and_from(wall_ms, before_ms)
        self._ahead_ms = wall_ms - self._monotonic_ms()

    def _monotonic_ms(self) -> int:
        return self._monotonic_ns() // 1_000_000


class ServerClock(SystemClock):
    """The time of one of several servers, whose clocks differ; deadlines go by the clock of this process, `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(
            lambda: (clock.now_ms() + clock.suspended_ms) * 1_000_000, lambda: clock.wall_ms() * 1_000_000
        )

    def now_ms(self) -> int:
        """Return the monotonic milliseconds of this process, without its suspensions."""
        return self._clock.now_ms()
