"""The history of a node: what happened in its last minutes, from its counters. Pure: the time is an argument."""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from presence_server.registry.figures import STEP_MS, STEPS_MAX, DecisionRate, History, Rates

RATE_STEPS: Final = 5
"""Steps that a rate is the mean of."""
MINUTE_STEPS: Final = 30
DENIED: Final = "denied"


class Totals(NamedTuple):
    """The counters of a node since it began; `decisions` by outcome and source."""

    connects: int = 0
    closes: int = 0
    received: int = 0
    deliveries: int = 0
    allowed: int = 0
    denied: int = 0
    slow_closes: int = 0
    shed: int = 0
    faults: int = 0
    store_refused_calls: int = 0
    undecided: int = 0
    """Decisions of the limiter without its store."""
    decisions: Mapping[tuple[str, str], int] = {}


class HistoryStep(NamedTuple):
    """One step, in the order of the fields of `History`."""

    connections: int
    connects: int
    received: int
    deliveries: int
    allowed: int
    denied: int
    lag_ms: int


class NodeHistory:
    """The last steps of one node."""

    def __init__(self) -> None:
        self._steps: deque[HistoryStep] = deque(maxlen=STEPS_MAX)
        self._totals: deque[Totals] = deque(maxlen=MINUTE_STEPS + 1)
        """The counters at the end of each step, the latest last."""
        self._number = 0
        """The number of the last step: its time over its length."""

    def record(self, wall_ms: int, totals: Totals, connections: int, lag_ms: int) -> None:
        """Take what was counted by now; nothing where the last step has not ended yet.

        The steps in which the process was frozen are without events; what happened since is in the next one. Where
        the clock was put back the record begins anew.
        """
        number = wall_ms // STEP_MS
        if number == self._number:
            return
        if number < self._number or not self._totals:
            self._steps.clear()
            self._totals.clear()
        else:
            before = self._totals[-1]
            for _ in range(min(number - self._number - 1, STEPS_MAX)):
                self._steps.append(HistoryStep(connections, 0, 0, 0, 0, 0, 0))
                self._totals.append(before)
            self._steps.append(
                HistoryStep(
                    connections,
                    totals.connects - before.connects,
                    totals.received - before.received,
                    totals.deliveries - before.deliveries,
                    totals.allowed - before.allowed,
                    totals.denied - before.denied,
                    lag_ms,
                )
            )
        self._totals.append(totals)
        self._number = number

    def as_published(self) -> History:
        """Return all steps, in columns."""
        return History(self._number * STEP_MS, *map(list, zip(*self._steps, strict=True)))

    def rates(self) -> tuple[Rates, list[DecisionRate]]:
        """Return what happened a second, of all and by decision."""
        before, now = self._totals_between(RATE_STEPS)
        seconds = min(RATE_STEPS, len(self._totals) - 1) * STEP_MS / 1_000
        if seconds <= 0:
            return Rates(), []

        def rate(first: int, last: int) -> float:
            return round((last - first) / seconds, 2)

        decisions = [
            DecisionRate(*key, rate(before.decisions.get(key, 0), number))
            for key, number in sorted(now.decisions.items())
        ]
        # Of the tuples' first fields, which are those of `Rates`.
        return Rates(*map(rate, before[:6], now[:6])), decisions

    def over_last_minute(self) -> tuple[Totals, Totals]:
        """Return what had been counted a minute ago, and what has been by now."""
        return self._totals_between(MINUTE_STEPS)

    def worst_lag_ms(self) -> int:
        """Return the worst lag of the last ten seconds."""
        return max((step.lag_ms for step in list(self._steps)[-RATE_STEPS:]), default=0)

    def _totals_between(self, steps: int) -> tuple[Totals, Totals]:
        """Return what had been counted so many steps ago, or at first, and by now."""
        if not self._totals:
            return Totals(), Totals()
        return self._totals[max(0, len(self._totals) - 1 - steps)], self._totals[-1]
