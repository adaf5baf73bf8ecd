"""The limiter that the server's settings ask for."""

from collections.abc import Callable, Sequence
from typing import Final

from presence_server.config.check import is_shared
from presence_server.config.settings import Settings, ThrottleSettings
from presence_server.throttle.decision import Decision
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.lists import AccessLists
from presence_server.throttle.policy import Policy, merge_rules
from presence_server.throttle.rule import Rule
from presence_server.throttle.watched import WatchedLimiter

RESUMES_OF_CID: Final = "resume_cid"
"""The rule that counts how often one cid resumes; there where `throttle.resume` is a limit."""
RESUMES_PER_CID: Final = "10/60s"


def rules_of(throttle: ThrottleSettings) -> list[Rule]:
    """Return the rules that clients are held to, and those that backends ask about by name.

    `messages` is not among them: it is counted where it is.
    """
    limits = {
        "connect": throttle.connect,
        "resume": throttle.resume,
        RESUMES_OF_CID: RESUMES_PER_CID if throttle.resume else "",
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
        Rule(rule.name, rule.limit, rule.algorithm, rule.block_ms, throttle.shadow, rule.tz)
        for rule in throttle.rules
    ]


def limiter_of(
    settings: Settings, nodes: Callable[[], int], on_decision: Callable[[Decision], None]
) -> WatchedLimiter:
    """Make the limiter: shared where the rooms are. `nodes()` is how many nodes there are, as far as is known."""
    throttle = settings.throttle
    return WatchedLimiter(
        rules_of(throttle),
        log_max=throttle.decision_log,
        redis=settings.redis.url if is_shared(settings) else "",
        prefix=settings.redis.prefix,
        on_error=throttle.on_error,
        deadline_ms=throttle.deadline_ms,
        nodes=nodes,
        on_decision=on_decision,
    )


class RulesInForce:
    """The rules and lists that a limiter goes by: those of the settings, and over them those of the policy."""

    def __init__(self, limiter: Limiter, base: Sequence[Rule]) -> None:
        self._limiter = limiter
        self._base = base
        self._policy = Policy()

    def change_base(self, base: Sequence[Rule]) -> None:
        """Go by other settings; the policy stays over them. Raises `ValueError` as `Limiter.change_rules` does."""
        self._limiter.change_rules(merge_rules(base, self._policy))
        self._base = base

    def apply(self, policy: Policy, lists: AccessLists) -> None:
        """Go by another policy."""
        rules = merge_rules(self._base, policy)
        if rules != [*self._limiter.rules.values()]:
            self._limiter.change_rules(rules)
        self._limiter.lists = lists
        self._policy = policy
