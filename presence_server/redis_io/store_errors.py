"""The exceptions of a lost store, and calls that a store in reach refuses: a key has another type."""

from collections import Counter
from typing import Final

import structlog
from redis.exceptions import RedisError

from presence_server.redis_io.scripts import Call

CLOSED_MEANWHILE: Final = (RuntimeError, AttributeError)
"""Raised by uvloop and by redis-py where a server goes away while a connection is made or written to."""
LOST: Final = (RedisError, OSError, TimeoutError, *CLOSED_MEANWHILE)
"""Raised where a connection is lost, or there is no answer."""
counts: Final[Counter[str]] = Counter()
"""Refused calls of this process, by script or command."""
log = structlog.get_logger()


def log_refused_call(call: Call, error: Exception, room: str = "") -> None:
    """Log and count a call that was answered with an error that does not say that the store is away."""
    name = call.script.name if call.script is not None else str(call.command[0])
    counts[name] += 1
    log.error("the store refuses a call", call=name, error=str(error), **({"room": room} if room else {}))
