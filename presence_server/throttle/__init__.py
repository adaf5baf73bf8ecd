"""Rate limits over many processes, with or without the server.

from presence_server.throttle import Limiter, Rule

async with Limiter([Rule("login", "5/60s", block_ms=60_000)], redis="redis://localhost:6379") as limiter:
    decision = await limiter.hit("login", user)
    if not decision.allowed:
        return 429, decision.headers()
"""

from presence_server.throttle.decision import Decision
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

__all__ = ["Decision", "Limiter", "Rule"]
