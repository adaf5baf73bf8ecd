"""The decisions that the header fields of one response tell of."""

from collections.abc import Sequence
from typing import Final

from presence_server.throttle.decision import Decision
from presence_server.throttle.errors import ThrottledError, TooCostlyError
from presence_server.throttle.headers import UNLIMITED, fields
from presence_server.throttle.rule import Rule

SCOPE_KEY: Final = "presence_server.throttle"
"""The key of the `ResponseLimits` in a scope or a WSGI environment."""


class ResponseLimits:
    """The decisions that a response tells of; the middleware around the application sends its `headers()`."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.policies: list[Rule] = []

    def note_decision(self, decision: Decision, rules: Sequence[Rule]) -> None:
        """Add a decision, and the rules that applied to it."""
        self.decisions.append(decision)
        if decision.source != UNLIMITED:
            self.policies += rules

    def headers(self) -> dict[str, str]:
        """Return the header fields of all decisions."""
        return fields(self.decisions, self.policies)

    def note_refusal(self, error: ThrottledError) -> None:
        """Add a refusal, unless its decision is there already."""
        if not isinstance(error, TooCostlyError) and error.decision not in self.decisions:
            self.decisions.append(error.decision)
        self.policies += error.policies
