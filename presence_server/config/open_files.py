"""The process's limit of open files: every connection is one."""

import sys
from typing import Final

if sys.platform != "win32":  # which has no such limit
    import resource

RESERVED: Final = 320
"""Open files that are not clients': the internal port's 256 sockets, and 64 for listeners, logs and the store."""


def open_files_max() -> int | None:
    """Return how many files this process may open once its limit is raised; None: no limit."""
    if sys.platform == "win32":
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def raise_open_files(connections: int) -> None:
    """Raise the soft limit, as far as the hard one allows, so that `connections` fit."""
    if sys.platform == "win32":
        return
    needed = connections + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
