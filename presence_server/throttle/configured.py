"""The limiter that the server's settings ask for."""

from presence_server.config.check import is_shared
from presence_server.config.settings import Settings, ThrottleSettings
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule


def rules_of(throttle: ThrottleSettings) -> list[Rule]:
    """Return the rules that clients are held to, and those that backends ask about by name.

    `messages` is not among them: it is counted where it is.
    """
    limits = {
        "connect": throttle.connect,
        "resume": throttle.resume,
        "updates": throttle.updates,
        "publishes": throttle.publishes,
    }
    return [
        Rule(
            name,
            limit,
            throttle.algorithm,
            throttle.block_ms if name == "connect" else 0,
            throttle.shadow,
        )
        for name, limit in limits.items()
        if limit
    ] + [
        Rule(rule.name, rule.limit, rule.algorithm, rule.block_ms, throttle.shadow) for rule in throttle.rules
    ]


def limiter_of(settings: Settings) -> Limiter:
    """Make the limiter: shared where the rooms are."""
    throttle = settings.throttle
    return Limiter(
        rules_of(throttle),
        redis=settings.redis.url if is_shared(settings) else "",
        prefix=settings.redis.prefix,
        on_error=throttle.on_error,
        deadline_ms=throttle.deadline_ms,
    )
