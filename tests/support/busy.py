"""A process that has no time for anything else."""

import time


def be_busy(seconds: float) -> None:
    """Keep this process, and its loop, from everything else."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass
