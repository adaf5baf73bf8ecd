"""A limiter that records its decisions: the keys that are hit and refused most, and a log for dry runs."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from presence_server.throttle.decision import Decision
from presence_server.throttle.dryrun import DecisionLog, Logged
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.memory import now_us
from presence_server.throttle.rule import Rule
from presence_server.throttle.talkers import Talkers

Named = str | Rule | Sequence[str | Rule]


class WatchedLimiter(Limiter):
    """A `Limiter` with `talkers`, and with a `log` of `log_max` decisions; 0: none.

    A decision under several rules is noted under each of them, its refusal under the one that refused.
    `now_s()` is a monotonic clock.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        log_max: int = 0,
        now_s: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        super().__init__(rules, **options)
        self._now_s = now_s
        self.talkers = Talkers(now_s())
        self.log = DecisionLog(log_max) if log_max else None

    async def hit(self, rule: Named, key: str, cost: int = 1) -> Decision:
        """See `Limiter`."""
        decision = await Limiter.hit(self, rule, key, cost)
        if type(rule) is str and self.log is None:
            self.talkers.note_decision(rule, key, allowed=decision.allowed)
        else:
            self._note_hit(rule, key, cost, decision)
        return decision

    def decide(self, rule: Named, key: str, cost: int, done: Callable[[Decision], None]) -> None:
        """See `Limiter`."""

        def decided(decision: Decision) -> None:
            if type(rule) is str and self.log is None:
                self.talkers.note_decision(rule, key, allowed=decision.allowed)
            else:
                self._note_hit(rule, key, cost, decision)
            done(decision)

        super().decide(rule, key, cost, decided)

    def roll(self) -> None:
        """Forget hits that are too old; to be called now and then."""
        self.talkers.roll(self._now_s())

    def _note_hit(self, rule: Named, key: str, cost: int, decision: Decision) -> None:
        rules = (rule,) if isinstance(rule, str | Rule) else rule
        for each in rules:
            name = each if isinstance(each, str) else each.name
            allowed = decision.allowed or (len(rules) > 1 and name != decision.rule)
            self.talkers.note_decision(name, key, allowed=allowed)
            if self.log is not None:
                self.log.note(Logged(now_us(), name, key, cost, allowed))
