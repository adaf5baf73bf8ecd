"""Arguments of decorators and dependencies: rules in any form, and functions that name the arguments they need."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from presence_server.throttle.rule import Algorithm, Rule

if TYPE_CHECKING:
    from presence_server.throttle.routes import Ruled

NAME_MAX: Final = 64
DIGEST: Final = 12
P: Final = inspect.Parameter
BY_NAME: Final = frozenset({P.POSITIONAL_OR_KEYWORD, P.KEYWORD_ONLY})
Given: TypeAlias = str | Rule | Sequence[str | Rule] | None


def given_rules(given: Given, limiter: "Ruled", name: str, algorithm: Algorithm = "fixed") -> list[Rule]:
    """Return rules. A text is the name of one of the limiter's, or else a limit such as `5/60s`.

    A limit becomes a rule called `name`. Raises `ValueError` for a text that is neither.
    """
    listed = () if given is None else (given,) if isinstance(given, str | Rule) else given
    return [_rule(one, limiter, name, algorithm) for one in listed]


def _rule(given: str | Rule, limiter: "Ruled", name: str, algorithm: Algorithm) -> Rule:
    if isinstance(given, Rule):
        return given
    if given in limiter.rules:
        return limiter.rules[given]
    try:
        return _made(name, given, algorithm)
    except ValueError as exc:
        known = ", ".join(limiter.rules) or "none"
        raise ValueError(f"{given!r} is neither a rule of the limiter ({known}) nor a limit: {exc}") from None


@lru_cache(1_024)
def _made(name: str, limit: str, algorithm: Algorithm) -> Rule:
    return Rule(rule_name(name), limit, algorithm)


def rule_name(text: str) -> str:
    """Return a text as a rule may be called: itself, or as much of its end as fits, with a digest of it all."""
    if 0 < len(text) <= NAME_MAX and text.isascii() and text.isprintable():
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST]
    readable = "".join(character for character in text if character.isascii() and character.isprintable())
    return f"{digest} {readable[-(NAME_MAX - DIGEST - 1) :]}".rstrip()


def by_name(given: Callable[..., Any], function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Return a function that is called as `function` is, and calls `given` with the arguments that it names.

    One that takes any arguments, or does not say which, gets all. Raises `TypeError` for one that needs an
    argument that `function` does not have; `what` says which it is.
    """
    try:
        wanted = inspect.signature(given).parameters
    except (TypeError, ValueError):  # some that are written in C
        return given
    if any(parameter.kind not in BY_NAME for parameter in wanted.values()):
        return given
    signature = inspect.signature(function)
    has = signature.parameters
    rest = next((name for name, parameter in has.items() if parameter.kind is P.VAR_KEYWORD), None)
    needed = [name for name, parameter in wanted.items() if parameter.default is P.empty]
    if rest is None and (missing := [name for name in needed if name not in has]):
        called = f"{function.__module__}.{function.__qualname__}"
        raise TypeError(
            f"{called} has no argument {missing[0]!r}, which its {what} needs; there are: {', '.join(has)}"
        )

    def named(*args: Any, **kwargs: Any) -> Any:
        if not args and all(name in kwargs for name in wanted):
            return given(**{name: kwargs[name] for name in wanted})
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = {**bound.arguments, **bound.arguments.get(rest or "", {})}
        return given(**{name: found[name] for name in wanted if name in found})

    return named
