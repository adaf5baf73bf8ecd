"""The boundary behind which one component runs the callbacks of others: a fault in one of them ends nothing else."""

import logging
import time
from collections.abc import Callable
from typing import Final, Literal, ParamSpec, get_args

from presence_server.measure import Counts

Boundary = Literal["pipeline", "subscriber", "connectivity"]
"""Whose callbacks: for answers of a pipeline, for messages of the subscriber, for loss and return of the store."""
LOG_INTERVAL_S: Final = 1.0
"""A boundary logs one fault in this time: a message that every node fails to handle must not fill the disk."""

counts: Final[Counts[Boundary]] = Counts(dict.fromkeys(get_args(Boundary), 0))
"""Faults of this process, by boundary."""
_quiet_until_s: Final[dict[Boundary, float]] = {}
_unlogged: Final[Counts[Boundary]] = Counts()
Arguments = ParamSpec("Arguments")
log = logging.getLogger(__name__)


def contain(
    boundary: Boundary,
    callback: Callable[Arguments, object],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> None:
    """Call `callback`; log and count what it raises, and go on."""
    try:
        callback(*args, **kwargs)
    except Exception:
        counts[boundary] += 1
        now_s = time.monotonic()  # decides about a line of the log only
        if now_s < _quiet_until_s.get(boundary, now_s):
            _unlogged[boundary] += 1
            return
        _quiet_until_s[boundary] = now_s + LOG_INTERVAL_S
        log.exception(
            "a callback failed (boundary: %s; unlogged before: %d)", boundary, _unlogged.pop(boundary, 0)
        )
