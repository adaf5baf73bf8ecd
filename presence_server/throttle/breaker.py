"""A circuit breaker: after some failures nothing is tried for a while, then one probe."""

import math
import random
from typing import Final

FAILURES_MAX: Final = 5
FIRST_S: Final = 0.5
LONGEST_S: Final = 10.0


class Breaker:
    """Says whether to try. Times are in s, of any clock that only moves forward.

    Open after `FAILURES_MAX` failures in a row; then for `FIRST_S`, and twice as long after each failed
    probe, up to `LONGEST_S`, each jittered by half so that nodes do not probe together.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._wait_s = FIRST_S
        self._until_s: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether nothing but probes is tried."""
        return self._until_s is not None

    def allows(self, now_s: float) -> bool:
        """Tell whether to try now; where it is open, True begins a probe."""
        if self._until_s is None:
            return True
        if self._probing or now_s < self._until_s:
            return False
        self._probing = True
        return True

    def probe_now(self) -> None:
        """Allow a probe before its time: something else shows that trying may help."""
        if self._until_s is not None:
            self._until_s = -math.inf
            self._probing = False

    def succeeded(self) -> None:
        """Close."""
        self._failures = 0
        self._wait_s = FIRST_S
        self._until_s = None
        self._probing = False

    def failed(self, now_s: float) -> None:
        """Count a failure; what began before it opened counts nothing."""
        if self._until_s is not None:
            if not self._probing:
                return
            self._wait_s = min(2 * self._wait_s, LONGEST_S)
        else:
            self._failures += 1
            if self._failures < FAILURES_MAX:
                return
        self._probing = False
        self._until_s = now_s + self._wait_s * random.uniform(0.5, 1)  # noqa: S311 - spreads nodes over time
