"""Charges of several keys that stand or fall together."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from presence_server.throttle.decision import Decision
from presence_server.throttle.errors import StoreUnavailableError
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

COUNTED: Final = frozenset(("redis", "local", "share"))
"""Sources of decisions that have charged something."""
log = structlog.get_logger()


class Charge(NamedTuple):
    """A cost to count for a key under one rule."""

    rule: Rule
    key: str
    cost: int


async def hit_all(limiter: Limiter, charges: Sequence[Charge]) -> list[Decision]:
    """Charge all of it or, where one is refused, nothing; return each decision.

    All are asked for at once, in one call of the store; where one is refused the others are given back, in a second
    call. Between the two another caller may see them charged. What the store loses meanwhile stays charged.
    """
    decisions = list(await asyncio.gather(*(limiter.hit(*charge) for charge in charges)))
    if all(decision.allowed for decision in decisions):
        return decisions
    counted = [n for n, each in enumerate(decisions) if each.allowed and each.source in COUNTED]
    returned = await asyncio.gather(*(limiter.refund(*charges[n]) for n in counted), return_exceptions=True)
    for n, given_back in zip(counted, returned, strict=True):
        if isinstance(given_back, Decision):
            decisions[n] = decisions[n]._replace(
                remaining=given_back.remaining, reset_after=given_back.reset_after
            )
        elif isinstance(given_back, StoreUnavailableError):
            log.warning("a charge was not given back", rule=charges[n].rule.name, error=str(given_back))
        else:
            raise given_back
    return decisions
