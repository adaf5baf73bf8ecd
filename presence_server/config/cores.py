"""The number of cores that this process may use, and of workers that run on them."""

import os
from math import ceil
from pathlib import Path
from typing import Final

from presence_server.config.settings import ServerSettings

MEMBERSHIP: Final = Path("/proc/self/cgroup")
"""This process's place in the tree of cgroups: a line `0::PATH` (cgroup v2)."""
CGROUPS: Final = Path("/sys/fs/cgroup")


def cores_available(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int:
    """Return how many cores the process may run on: those of its affinity, or fewer where its cgroup has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        own = membership.read_text(encoding="utf-8").partition("0::/")[2].partition("\n")[0]
        # `QUOTA PERIOD` in µs, or `max PERIOD`; in a container its own group is the top of the tree.
        allowed, period = (cgroups / own / "cpu.max").read_text(encoding="ascii").split()
        return cores if allowed == "max" else max(1, min(cores, ceil(int(allowed) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup v2, or nothing that can be read
        return cores


def worker_count(server: ServerSettings) -> int:
    """Return how many processes share the client port; 1: there is no supervisor."""
    return cores_available() if server.workers == "auto" else server.workers
