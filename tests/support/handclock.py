"""A clock that is moved by hand."""

from presence_server.clock import RepeatedTime, Steps


class HandClock:
    """Stands still until it is moved."""

    def __init__(self, now_ms: int = 1_000_000, wall_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self.suspended_ms = 0
        self.stepped_ms = 0
        self.steps = Steps()
        self.repeated_time = RepeatedTime()

    def now_ms(self) -> int:
        """Milliseconds for deadlines and intervals."""
        return self._now_ms

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._wall_ms

    def follow(self, wall_ms: int) -> None:
        """Tell another clock's wall time."""
        self.stepped_ms += max(0, wall_ms - self._wall_ms)
        if wall_ms != self._wall_ms:
            self.steps.add_step(wall_ms - self._wall_ms)
        if wall_ms < self._wall_ms:
            self.repeated_time = self.repeated_time.and_from(wall_ms, self._wall_ms)
        self._wall_ms = wall_ms

    def suspend(self, ms: int) -> None:
        """Let the process be frozen for a while: only the wall's time passes."""
        self.suspended_ms += ms
        self._wall_ms += ms

    def move(self, ms: int) -> None:
        """Let `ms` milliseconds pass on both."""
        self._now_ms += ms
        self._wall_ms += ms
