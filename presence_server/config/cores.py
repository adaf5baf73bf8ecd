"""How many cores this process may use, and how many workers that makes."""

import os
from math import ceil
from pathlib import Path
from typing import Final

from presence_server.config.settings import ServerSettings

QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use (cgroup v2): `QUOTA PERIOD` in µs, or `max PERIOD`."""


def cores_available(quota: Path = QUOTA) -> int:
    """Return how many cores the process may run on: those of its affinity, or fewer where its cgroup has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return cores if allowed == "max" else max(1, min(cores, ceil(int(allowed) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup v2, or nothing that can be read
        return cores


def worker_count(server: ServerSettings) -> int:
    """Return how many processes share the client port; 1: there is no supervisor."""
    return cores_available() if server.workers == "auto" else server.workers
