"""The boundary behind which one component runs the callbacks of others: a fault in one of them ends nothing else."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, ParamSpec, get_args

Boundary = Literal["beat", "connectivity", "figures", "limiter", "pipeline", "subscriber", "sweep"]
"""The boundaries behind which callbacks run: for heartbeats, for loss and return of the store, for the figures that
operators see, for answers of the limiter and of a pipeline of presence, for messages of the subscriber, for sweeps."""
LOG_INTERVAL_S: Final = 1.0
"""A boundary logs one fault in this time: a message that every node fails to handle must not fill the disk."""

counts: Final[Counter[Boundary]] = Counter(dict.fromkeys(get_args(Boundary), 0))
"""Faults of this process, by boundary."""
_quiet_until_s: Final[dict[Boundary, float]] = {}
_unlogged: Final[Counter[Boundary]] = Counter()
Arguments = ParamSpec("Arguments")
log = logging.getLogger(__name__)


def contain(
    boundary: Boundary,
    callback: Callable[Arguments, object],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> None:
    """Call `callback`; report what it raises, and go on."""
    try:
        callback(*args, **kwargs)
    except Exception:  # noqa: BLE001 - `report` logs it
        report(boundary)


def report(boundary: Boundary) -> None:
    """Log the exception that is being handled, with its traceback, and count it."""
    counts[boundary] += 1
    now_s = time.monotonic()  # decides about a line of the log only
    if now_s < _quiet_until_s.get(boundary, now_s):
        _unlogged[boundary] += 1
        return
    _quiet_until_s[boundary] = now_s + LOG_INTERVAL_S
    unlogged = _unlogged.pop(boundary, 0)
    log.exception("a callback failed (boundary: %s; not logged before: %d)", boundary, unlogged)
