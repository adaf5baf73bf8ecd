"""Rate limits over many processes, with or without the server.

from presence_server.throttle import Limiter, Rule

async with Limiter([Rule("login", "5/60s", block_ms=60_000)], redis="redis://localhost:6379") as limiter:
    decision = await limiter.hit("login", user)
    if not decision.allowed:
        return 429, decision.headers()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from presence_server.throttle.decision import Decision
    from presence_server.throttle.errors import ThrottledError, TooCostlyError
    from presence_server.throttle.limiter import Limiter
    from presence_server.throttle.rule import Rule
    from presence_server.throttle.sync import SyncLimiter

__all__ = ["Decision", "Limiter", "Rule", "SyncLimiter", "ThrottledError", "TooCostlyError"]
_MODULES: Final = {
    "Decision": "decision",
    "Limiter": "limiter",
    "Rule": "rule",
    "SyncLimiter": "sync",
    "ThrottledError": "errors",
    "TooCostlyError": "errors",
}


def __getattr__(name: str) -> object:
    """Import a name where it is first used: a rule alone needs no event loop and no client of Redis."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
