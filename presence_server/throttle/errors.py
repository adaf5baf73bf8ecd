"""The exceptions of a limiter, beside `ValueError` and `LookupError` for wrong arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

from presence_server.errors import PresenceError
from presence_server.throttle.decision import Decision
from presence_server.throttle.headers import fields, plain_problem, policy_field, problem
from presence_server.throttle.rule import Rule, impossible


class StoreUnavailableError(Exception):
    """The shared store could not be told: a block, a reset, a charge or a refund has not happened, or may not have."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the limiter's shared store is out of reach; try again")


class ThrottledError(PresenceError):
    """A limit refused this. What answers HTTP requests says so with `status`, `headers()` and `problem()`."""

    status: int = 429
    """The HTTP status that says it."""

    def __init__(self, decision: Decision, policies: Iterable[Rule] = ()) -> None:
        self.decision = decision
        """The decision of the limiter, with `retry_after` in seconds."""
        self.policies = tuple(policies)
        """The rules that apply to what was refused, for the headers."""
        super().__init__(self._detail())

    def __reduce__(self) -> tuple[Any, ...]:
        # Task queues carry errors between processes.
        return type(self), (self.decision, self.policies)

    def headers(self) -> dict[str, str]:
        """Return `RateLimit`, `RateLimit-Policy` and `Retry-After`."""
        return fields((self.decision,), self.policies)

    def problem(self) -> dict[str, Any]:
        """Return what the body of an answer says, as `application/problem+json` (RFC 9457)."""
        return problem(self.decision, str(self), self.status)

    def _detail(self) -> str:
        return f"rule {self.decision.rule!r}: try again in {self.decision.retry_after:.1f} s"


class TooCostlyError(ThrottledError):
    """A cost that a rule can never admit, however long one waits; nothing was counted."""

    status = 413

    def __init__(self, rule: Rule, cost: int, policies: Sequence[Rule] = ()) -> None:
        self._rule, self._cost = rule, cost
        refused = Decision(False, rule.count, rule.count, 0.0, 0.0, rule.name, "local", rule.window_s)
        super().__init__(refused, policies or (rule,))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rule, self._cost, self.policies)

    def headers(self) -> dict[str, str]:
        """Return `RateLimit-Policy`; nothing was decided by what was counted."""
        return policy_field(self.policies)

    def problem(self) -> dict[str, Any]:
        """Return what the body of an answer says."""
        return plain_problem(self.status, str(self))

    def _detail(self) -> str:
        return impossible(self._rule, self._cost)


def check_cost(rules: Sequence[Rule], cost: int) -> None:
    """Raise `TooCostlyError` for a cost that one of the rules can never admit, whatever was counted."""
    for rule in rules:
        if not 0 <= cost <= rule.count:
            raise TooCostlyError(rule, cost, rules)


def check_decision(decision: Decision, rules: Sequence[Rule]) -> None:
    """Raise `ThrottledError` for a refusal."""
    if not decision.allowed:
        raise ThrottledError(decision, rules)
