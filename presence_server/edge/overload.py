"""Overload: when a node has more to do than it can, and what it sheds first.

The measure is a delay: how late the event loop is with what is due, how long a member's message has waited for its
slice, or how long what is gathered has waited to be written, whichever is longest. It is sampled every `SAMPLE_S`.
A node is overloaded while every sample of the last `WINDOW_S` was above the bar: a single pause is none, and one
sample below the bar ends it (the rule is CoDel's, RFC 8289). So it comes back by itself.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import structlog

SAMPLE_S: Final = 0.05
WINDOW_S: Final = 1.0

log = structlog.get_logger()


class Shedding(IntEnum):
    """The work that a node sheds; each level sheds that of the one before, too."""

    NOTHING = 0
    HANDSHAKES = 1
    """New connections are refused with 503 or 4100: those who are here keep their service."""
    SIGNALS = 2
    """Signals are dropped, too, after a second window: messages, joins and updates are not."""


class Overload:
    """Samples the delay. `bar_ms` is the bar; `waited_s` returns how long members have waited."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bar_ms: int, waited_s: Callable[[], float]) -> None:
        self.sheds = Shedding.NOTHING
        """The work that the node sheds at present."""
        self.delay_s = 0.0
        """The last sample."""
        self.handshakes_shed = 0
        self.signals_shed = 0
        self._loop = loop
        self._bar_s = bar_ms / 1_000
        self._waited_s = waited_s
        self._above_since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)

    def stop(self) -> None:
        """Sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sheds_handshake(self) -> bool:
        """Tell whether a new connection must be refused, and count it."""
        if self.sheds < Shedding.HANDSHAKES:
            return False
        self.handshakes_shed += 1
        return True

    def sheds_signal(self) -> bool:
        """Tell whether a signal must be dropped, and count it."""
        if self.sheds < Shedding.SIGNALS:
            return False
        self.signals_shed += 1
        return True

    def note_delay(self, delay_s: float, now_s: float) -> None:
        """Take a sample."""
        self.delay_s = delay_s
        before = self.sheds
        if delay_s <= self._bar_s:
            self._above_since_s = None
            self.sheds = Shedding.NOTHING
        elif self._above_since_s is None:
            self._above_since_s = now_s
        else:
            windows = int((now_s - self._above_since_s) / WINDOW_S)
            self.sheds = Shedding(min(windows, Shedding.SIGNALS))
        if self.sheds is not before:
            log.warning("overload", sheds=self.sheds.name.lower(), delay_ms=round(delay_s * 1_000))

    def _sample(self) -> None:
        if self._timer is None:
            return
        now_s = self._loop.time()
        self.note_delay(max(now_s - self._timer.when(), self._waited_s()), now_s)
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)
