"""Rules as decorators and dependencies are given them: by name, as a limit's text, as a `Rule`, by a function."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from presence_server.throttle.rule import Algorithm, Rule

if TYPE_CHECKING:
    from presence_server.throttle.routes import Ruled

NAME_MAX: Final = 64
DIGEST: Final = 12
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
