"""The rules that a request is held to, by its method and path, and its cost, for ASGI and WSGI alike."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeAlias

from presence_server.throttle.rule import Rule, impossible

Rules: TypeAlias = "str | Rule | Sequence[str | Rule] | None"
_METHOD: Final = re.compile(r"([A-Z]+) +(?=[/*])")
log = logging.getLogger(__name__)


class Ruled(Protocol):
    """A limiter with rules by name: a `Limiter` or a `SyncLimiter`."""

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules as they are now."""


class Routes:
    """Patterns of requests and the rules that each is held to; the first pattern that matches decides.

    A pattern is a path within the application, `*` for anything, and may begin with a method: `POST /login`.
    `GET` is `HEAD` too, which runs the same handler, and a WebSocket's handshake. A text or a rule instead of
    the mapping holds for every request.

    Raises `ValueError` for a pattern that could never match, and, naming the pattern and the rule, for one that the
    limiter has not, one that is named twice, and a `cost` that it can never admit. A limiter that has no rules yet is
    not asked.
    """

    def __init__(self, routes: "Mapping[str, Rules] | str | Rule", limiter: Ruled, cost: int = 1) -> None:
        table: Mapping[str, Rules] = {"*": routes} if isinstance(routes, str | Rule) else routes
        self._limiter = limiter
        self._rules = [_listed(rules) for rules in table.values()]
        groups = (f"(?P<r{number}>{_expression(pattern)})" for number, pattern in enumerate(table))
        self._pattern = re.compile("|".join(groups), re.DOTALL)
        self._missing: set[str] = set()
        for pattern, rules in zip(table, self._rules, strict=True):
            self._check(pattern, rules, cost)

    def find(self, method: str, path: str) -> list[Rule]:
        """Return the rules of a request, none where no pattern matches or the pattern has none.

        A rule that `change_rules` has taken away since refuses nothing; the first time, that is logged.
        """
        match = self._pattern.fullmatch(f"{method} {path}") if self._rules else None
        if match is None:
            return []
        known = self._limiter.rules
        found = []
        for rule in self._rules[int(str(match.lastgroup)[1:])]:
            if isinstance(rule, Rule):
                found.append(rule)
            elif rule in known:
                found.append(known[rule])
            elif rule not in self._missing:
                self._missing.add(rule)
                log.warning("the limiter has no rule %r any more; what was held to it is not limited", rule)
        return found

    def _check(self, pattern: str, rules: Sequence[str | Rule], cost: int) -> None:
        known = self._limiter.rules
        names = [rule if isinstance(rule, str) else rule.name for rule in rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"route {pattern!r}: rule {min(twice)!r} is named twice")
        for rule in rules:
            if isinstance(rule, str) and rule not in known:
                if known:
                    raise ValueError(f"route {pattern!r}: no rule {rule!r}; there are: {', '.join(known)}")
                continue
            found = rule if isinstance(rule, Rule) else known[rule]
            if not 1 <= cost <= found.count:
                raise ValueError(f"route {pattern!r}: {impossible(found, cost)}")


def _listed(rules: Rules) -> Sequence[str | Rule]:
    if rules is None:
        return ()
    return (rules,) if isinstance(rules, str | Rule) else tuple(rules)


def _expression(pattern: str) -> str:
    """Return what a method, a space and a path must match. Its time is linear in the path: stars are atomic."""
    method = _METHOD.match(pattern)
    path = pattern[method.end() :] if method else pattern
    if not path.startswith(("/", "*")):
        raise ValueError(
            f"route {pattern!r}: expected a path, /… or *…, or a method in capitals, a space and a path"
        )
    methods = "[^ ]*" if method is None else "(?:GET|HEAD)" if method[1] == "GET" else method[1]
    first, *others = path.split("*")
    expression = f"{methods} {re.escape(first)}"
    if others:
        *middle, last = others
        expression += "".join(f"(?>.*?{re.escape(piece)})" for piece in middle) + f".*{re.escape(last)}"
    return expression
