"""Decisions without the shared store, which has not answered in time: as `on_error` says."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from presence_server.rates import OnError
from presence_server.throttle.batch import GivenUp
from presence_server.throttle.decision import Source, Verdict
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import Rule
from presence_server.throttle.share import Shares

CLOSED_RETRY_US: Final = 1_000_000
"""The `retry_after` of a refusal because the store is out of reach."""
OnErrorHook: TypeAlias = Callable[[str, str, int], bool]
"""Gets a rule's name, a key and a cost; returns whether to admit."""
log = logging.getLogger(__name__)


class AskedDecision(NamedTuple):
    """A decision that the shared store is asked for."""

    rules: Sequence[Rule]
    places: Sequence[str]
    """The place in the store at which each rule is counted."""
    key: str
    cost: int


class Fallback:
    """Decides by `on_error`, which may be changed at any time."""

    def __init__(self, on_error: OnError | OnErrorHook, memory: ThrottleMemoryStore, shares: Shares) -> None:
        self.on_error: OnError | OnErrorHook = on_error
        self._memory = memory
        self._shares = shares

    def judge(
        self, asked: AskedDecision, why: GivenUp, *, charge: bool = True
    ) -> tuple[Sequence[Verdict], Source]:
        """Return the verdict of each rule, and their source; without `charge` nothing is counted."""
        rules, places, key, cost = asked
        if self.on_error == "local" or (why is GivenUp.LATE_SELF and self.on_error == "open"):
            # A client that floods this process must not be admitted because its flood delays the store's answers.
            if charge:
                return self._memory.hit(rules, key, cost), "local"
            return [self._memory.peek(rule, key, cost) for rule in rules], "local"
        if self.on_error == "share":
            return self._shares.hit_share(rules, places, key, cost, charge=charge), "share"
        verdicts = [self._verdict(rule, key, cost) for rule in rules]
        refuses = any(not v.allowed and not rule.shadow for rule, v in zip(rules, verdicts, strict=True))
        return verdicts, "closed" if refuses else "open"

    def judge_slot(self, rule: Rule, key: str, token: str) -> tuple[Verdict, Source]:
        """Return the verdict about a slot, and its source."""
        if self.on_error in {"local", "share"}:
            return self._memory.change_slot("acquire", rule, key, token), "local"
        verdict = self._verdict(rule, key, 1)
        return verdict, "open" if verdict.allowed else "closed"

    def _verdict(self, rule: Rule, key: str, cost: int) -> Verdict:
        allowed = self.on_error == "open"
        if callable(self.on_error):
            try:
                allowed = self.on_error(rule.name, key, cost)
            except Exception:
                # A limiter must not be an outage of its own, so that the default holds: open.
                log.exception("on_error failed; it admits")
                allowed = True
        retry_us = 0 if allowed else CLOSED_RETRY_US
        return Verdict(allowed, rule.count if allowed else 0, retry_us, retry_us)
