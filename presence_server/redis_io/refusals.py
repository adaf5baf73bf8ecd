"""Calls that the store refuses although it is in reach: a key or a call is not what it should be."""

from collections import Counter
from typing import Final

import structlog

from presence_server.redis_io.scripts import Call

counts: Final[Counter[str]] = Counter()
"""Refused calls of this process, by script or command."""
log = structlog.get_logger()


def note_refusal(call: Call, error: Exception, room: str = "") -> None:
    """Log and count a call that was answered with an error that does not say that the store is away."""
    name = call.script.name if call.script is not None else str(call.command[0])
    counts[name] += 1
    log.error("the store refuses a call", call=name, error=str(error), **({"room": room} if room else {}))
