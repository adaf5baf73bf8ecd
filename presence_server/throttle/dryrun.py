"""A proposed rule played over the recent decisions of this process: who would have been refused."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from presence_server.throttle.memory import ThrottleMemoryStore, now_us
from presence_server.throttle.rows import wall_us
from presence_server.throttle.rule import Rule

BUDGET_US: Final = 5_000_000
"""The longest that one dry run computes."""
LOOKED_AFTER: Final = 1_000
"""Decisions between two looks at the clock."""


class Logged(NamedTuple):
    """A decision: when, µs on a clock that only moves forward, and what was decided."""

    at_us: int
    rule: str
    key: str
    cost: int
    allowed: bool


class DecisionLog:
    """The last decisions of this process, `size_max` at most; a long key takes its length more."""

    def __init__(self, size_max: int) -> None:
        self._logged: deque[Logged] = deque(maxlen=size_max)
        self.note = self._logged.append
        """Log a decision."""

    def __len__(self) -> int:
        return len(self._logged)

    def copy(self) -> list[Logged]:
        """Return all decisions, in order."""
        return list(self._logged)


class Played(msgspec.Struct, frozen=True):
    """A key, how often it was hit, and how often the proposed rule would have refused it, and the present one did."""

    key: str
    hits: int
    refused: int
    was_refused: int


class DryRun(msgspec.Struct, frozen=True):
    """The result of playing a proposed rule.

    `played` decisions of `logged` were played, over `over_ms`; not all where that took too long. `refused` is how many
    of them it would have refused, `was_refused` how many were; `keys` how many there were, `keys_refused` how many of
    them it would have refused at least once; `top` those with the most refusals.
    """

    logged: int
    played: int
    over_ms: int
    refused: int
    was_refused: int
    keys: int
    keys_refused: int
    top: list[Played]


def play(
    everything: Sequence[Logged],
    name: str,
    rule: Rule,
    top: int,
    *,
    budget_us: int = BUDGET_US,
    clock_us: Callable[[], int] = now_us,
) -> DryRun:
    """Play the decisions under the rule of that name under another, as they were asked for and when."""
    log = [logged for logged in everything if logged.rule == name]
    at_us = 0
    ahead_us = wall_us() - clock_us()
    store = ThrottleMemoryStore(max(len(log), 1), lambda: at_us, lambda: at_us + ahead_us)
    counts: dict[str, list[int]] = {}
    until_us = clock_us() + budget_us
    played = 0
    for logged in log:
        if played % LOOKED_AFTER == 0 and clock_us() > until_us:
            break
        at_us = logged.at_us
        # A cost beyond the limit can never be admitted, and charges nothing.
        allowed = logged.cost <= rule.count and store.hit_one(rule, logged.key, logged.cost).allowed
        count = counts.setdefault(logged.key, [0, 0, 0])
        count[0] += 1
        count[1] += not allowed
        count[2] += not logged.allowed
        played += 1
    keys = [Played(key, *count) for key, count in counts.items()]
    keys.sort(key=lambda each: (-each.refused, -each.hits, each.key))
    return DryRun(
        logged=len(log),
        played=played,
        over_ms=(log[played - 1].at_us - log[0].at_us) // 1_000 if played else 0,
        refused=sum(each.refused for each in keys),
        was_refused=sum(each.was_refused for each in keys),
        keys=len(keys),
        keys_refused=sum(each.refused > 0 for each in keys),
        top=[each for each in keys[:top] if each.refused],
    )
