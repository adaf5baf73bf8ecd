"""Limits on functions, `async` or not, and on handlers of requests.

    limiter, sync_limiter = Limiter(), SyncLimiter()

    @limit("5/60s", limiter=limiter, key=lambda user: user)
    async def send_mail(user): ...

    @limit("100/1h", limiter=sync_limiter, key="everybody")
    def report(): ...

A call that is refused raises `ThrottledError` and does not run.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, cast

from presence_server.throttle.arguments import Given, by_name, given_rules
from presence_server.throttle.counted import Counted, SyncCounted
from presence_server.throttle.errors import check_cost, check_decision
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.routes import Ruled
from presence_server.throttle.rule import Algorithm, Rule, impossible
from presence_server.throttle.sync import SyncLimiter

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
Maybe: TypeAlias = R | Awaitable[R]
Key: TypeAlias = str | Callable[..., Maybe[str | None]]
Limit: TypeAlias = str | Rule | Sequence[str | Rule] | Callable[..., Maybe[Given]]
Cost: TypeAlias = int | Callable[..., Maybe[int]]
Exempt: TypeAlias = Callable[..., Maybe[bool]]
_counted: Final[ContextVar[Counted]] = ContextVar("counted")
_sync_counted: Final[ContextVar[SyncCounted]] = ContextVar("sync_counted")


class Terms:
    """The rules that calls are held to, the key that they are counted by, and their cost.

    - `rule`: the name of a rule of the limiter; a limit such as `5/60s`, counted by `algorithm`; a `Rule`;
      several of these; or a function that returns one, or None for none: by plan, or by customer.
    - `key`: what calls are counted by, a text or a function; one that returns None exempts the call.
    - `cost`: how much a call counts, a number or a function; 0 is not counted.
    - `exempt`: a function that says which calls are not held to it.
    - `name`: what a limit without a rule of the limiter's is counted as; two of one name share their count.

    Raises `ValueError` for a rule or cost that can never work, where neither is a function.
    """

    def __init__(
        self,
        limiter: Ruled,
        rule: Limit,
        *,
        key: Key,
        cost: Cost = 1,
        exempt: Exempt | None = None,
        name: str = "",
        algorithm: Algorithm = "fixed",
    ) -> None:
        self._limiter = limiter
        self._rule, self._key, self._cost, self._exempt = rule, key, cost, exempt
        self._name = name
        self._algorithm = algorithm
        self._warned = False
        if not callable(rule):
            found = self.rules(rule, name or "limit")
            if not callable(cost) and (wrong := next((r for r in found if not 1 <= cost <= r.count), None)):
                raise ValueError(impossible(wrong, cost))

    def for_calls_of(self, function: Callable[..., Any]) -> "Terms":
        """Return terms whose functions get, of the arguments of a function's call, those that they name.

        Raises `TypeError` for one that names something else.
        """
        given = {"rule": self._rule, "key": self._key, "cost": self._cost, "exempt": self._exempt}
        fitted: dict[str, Any] = {
            name: by_name(value, function, name) if callable(value) else value
            for name, value in given.items()
        }
        return Terms(self._limiter, **fitted, name=self._name, algorithm=self._algorithm)

    def rules(self, given: Given, name: str) -> list[Rule]:
        """Return the rules of a call. A limit that a function returned has a count of its own."""
        name = self._name or name
        if callable(self._rule) and isinstance(given, str):
            name = f"{name} {given}"
        return given_rules(given, self._limiter, name, self._algorithm)

    async def of(self, name: str, *args: Any, **kwargs: Any) -> tuple[list[Rule], str, int]:
        """Return the rules, the key and the cost of a call; no rules: it is not counted.

        A rule that `change_rules` has taken away since refuses nothing; that is logged once. Raises `TooCostlyError`,
        and `ValueError` where a function returned neither a rule nor a limit.
        """
        if self._exempt is not None and await _done(self._exempt(*args, **kwargs)):
            return [], "", 0
        key = await _done(self._key(*args, **kwargs)) if callable(self._key) else self._key
        if key is None:
            return [], "", 0
        given = await _done(self._rule(*args, **kwargs)) if callable(self._rule) else self._rule
        cost = await _done(self._cost(*args, **kwargs)) if callable(self._cost) else self._cost
        try:
            rules = self.rules(given, name)
        except ValueError as exc:
            if callable(self._rule):
                raise
            if not self._warned:
                self._warned = True
                log.warning("%s; what was held to it is not limited", exc)
            return [], "", 0
        check_cost(rules, cost)
        return (rules if cost else []), key, cost


def limit(
    rule: Limit,
    *,
    limiter: Limiter | SyncLimiter,
    key: Key,
    cost: Cost = 1,
    exempt: Exempt | None = None,
    name: str = "",
    algorithm: Algorithm = "fixed",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Hold a function to a limit: an `async` one with a `Limiter`, any other with a `SyncLimiter`.

    `Terms` describes the arguments; their functions get, by name, those of the call's arguments that they name.
    `name` is the function's own name where it is left out. A call that is
    refused raises `ThrottledError`, one whose cost no rule ever admits `TooCostlyError`. Inside the function
    `counted()`, or `sync_counted()`, is what the call was counted as.

    Raises `TypeError` where function and limiter do not fit, `ValueError` for what can never work.
    """
    terms = Terms(limiter, rule, key=key, cost=cost, exempt=exempt, name=name, algorithm=algorithm)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called = f"{function.__module__}.{function.__qualname__}"
        if inspect.iscoroutinefunction(function):
            if not isinstance(limiter, Limiter):
                raise TypeError(f"{called} is async: give it a Limiter, not a {type(limiter).__name__}")
            return cast("Callable[P, R]", _held(function, terms.for_calls_of(function), limiter, called))
        if not isinstance(limiter, SyncLimiter):
            raise TypeError(f"{called} is not async: give it a SyncLimiter, not a {type(limiter).__name__}")
        return _sync_held(function, terms.for_calls_of(function), limiter, called)

    return decorate


def counted() -> Counted:
    """Return what the call of the innermost `async` function with a limit was counted as.

    Raises `LookupError` outside of one, and where the call was not counted.
    """
    return _counted.get()


def sync_counted() -> SyncCounted:
    """Return what the call of the innermost function with a limit was counted as; see `counted`."""
    return _sync_counted.get()


async def count(limiter: Limiter, rules: Sequence[Rule], key: str, cost: int) -> Counted:
    """Count a call. Raises `ThrottledError` where it is refused."""
    decision = await limiter.hit(rules, key, cost)
    check_decision(decision, rules)
    return Counted(limiter, rules, key, cost, decision)


def _held(
    function: Callable[P, Awaitable[R]], terms: Terms, limiter: Limiter, called: str
) -> Callable[P, Awaitable[R]]:
    @wraps(function)
    async def held(*args: P.args, **kwargs: P.kwargs) -> R:
        rules, key, cost = await terms.of(called, *args, **kwargs)
        if not rules:
            return await function(*args, **kwargs)
        token = _counted.set(await count(limiter, rules, key, cost))
        try:
            return await function(*args, **kwargs)
        finally:
            _counted.reset(token)

    return held


def _sync_held(function: Callable[P, R], terms: Terms, limiter: SyncLimiter, called: str) -> Callable[P, R]:
    @wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> R:
        rules, key, cost = _now(terms.of(called, *args, **kwargs), called)
        if not rules:
            return function(*args, **kwargs)
        decision = limiter.hit(rules, key, cost)
        check_decision(decision, rules)
        token = _sync_counted.set(SyncCounted(limiter, rules, key, cost, decision))
        try:
            return function(*args, **kwargs)
        finally:
            _sync_counted.reset(token)

    return held


async def _done(answer: Maybe[R]) -> R:
    return await cast("Awaitable[R]", answer) if inspect.isawaitable(answer) else answer


def _now(coroutine: Any, called: str) -> tuple[list[Rule], str, int]:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        found: tuple[list[Rule], str, int] = done.value
        return found
    coroutine.close()
    raise TypeError(f"{called} is not async: its key, cost, limit and exempt cannot be either")
