"""Delays before a process that has ended is started again."""

from typing import Final

FIRST_S: Final = 0.2
MOST_S: Final = 30.0
STABLE_S: Final = 10.0
"""A process that ran this long is taken to have started well: the pause after its end is the first one again."""


class RestartBackoff:
    """Doubles the pause from one end to the next, and begins anew after a run of `STABLE_S`."""

    def __init__(self) -> None:
        self._ends = 0

    def pause_s(self, ran_s: float) -> float:
        """Return the pause after a run of `ran_s`."""
        self._ends = 1 if ran_s >= STABLE_S else self._ends + 1
        return min(MOST_S, FIRST_S * 2.0 ** min(self._ends - 1, 16))
