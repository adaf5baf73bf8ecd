"""Python's cyclic garbage collector: what it looks at, how often, and how long it stops the loop for.

What start-up made is frozen: it never ends, so it is never looked at again. Reference counts free a connection with all
that belongs to it; the collector is there for cycles that tasks and exceptions leave, which die young. A collection of
the oldest generation looks at every object that lives: hundreds of milliseconds at 10,000 connections, for nothing. So
it is as good as never due while there are many, and made when there are few. `bench/pauses.py` measures it.
"""

import gc
from time import perf_counter
from typing import Final

from presence_server.counters import Histogram

THRESHOLDS: Final = (2_000, 5, 10_000)
"""Allocations more than releases before the youngest generation is looked at; how many of those before the middle
one is, which then has at most 12,000 objects; how many of these before the oldest one is."""
FEW_CONNECTIONS: Final = 200
"""With no more connections than this a full collection takes a few milliseconds."""
WHOLE_EVERY_MS: Final = 600_000
"""All objects are looked at so often while there are few connections."""


class GarbageCollector:
    """Sets the collector up, and notes how long each collection took, by generation."""

    def __init__(self) -> None:
        self.seconds = {generation: Histogram() for generation in range(3)}
        """The pauses of the loop for collections, s."""
        self.longest_s = 0.0
        self._began_s = 0.0
        self._whole_ms: int | None = None

    def start(self) -> None:
        """Freeze what there is, set the thresholds, and begin to note pauses."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._note_pause)

    def stop(self) -> None:
        """Note nothing more."""
        gc.callbacks.remove(self._note_pause)

    def collect_if_due(self, connections: int, now_ms: int) -> None:
        """Look at all objects, if that has not been for long and takes little time now."""
        if self._whole_ms is None:
            self._whole_ms = now_ms
        if connections <= FEW_CONNECTIONS and now_ms - self._whole_ms >= WHOLE_EVERY_MS:
            self._whole_ms = now_ms
            gc.collect()

    def _note_pause(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = perf_counter()
        else:
            took_s = perf_counter() - self._began_s
            self.seconds[info["generation"]].observe(took_s)
            self.longest_s = max(self.longest_s, took_s)
