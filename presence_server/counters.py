"""Counters and histograms, which hold their numbers until the metrics page reads them.

prometheus-client's own take a lock and look a child up for each observation, which is a tenth of what a message costs
here; only the page that is scraped is its.
"""

from bisect import bisect_left
from collections import Counter as Counts
from typing import Final

__all__ = ["SECONDS", "Counts", "Histogram"]

SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
"""Bounds of the buckets of durations, from a fast message to a lost connection."""


class Histogram:
    """Observations counted in buckets, each up to and with its bound; the last bucket has none."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return each bound as text with how many were no greater, as Prometheus wants them."""
        total = 0
        buckets = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets
