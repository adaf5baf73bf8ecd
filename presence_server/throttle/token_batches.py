"""Tokens that are taken out of the shared store in batches and spent here; the time (µs) is an argument.

For rules of thousands of hits a second. Of each key a process has at most `rule.lease` tokens that nobody waits
for. With N processes:

- A `fixed` window admits no more than its limit: what is spent has been counted, and a batch ends with the window
  that it was counted in, reckoned from before the store was asked.
- A `bucket` admits in any time at most what it would, and N x lease: what was held when that time began.
- At most N x lease tokens of a window are counted and never spent, and as many for each time that they are dropped: by
  a reset, a block, a change of the rules, or because there are too many keys. Near the limit batches are smaller: a
  process takes no more ahead than a quarter of what is left.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from presence_server.throttle.batch import Done, GivenUp, StoreVerdicts
from presence_server.throttle.rule import Rule

PART_AHEAD: Final = 4
"""The largest part of what is left that is taken ahead: others take theirs."""
EARLY_US: Final = 1_000
"""A batch ends so much before its window, whose end the store tells in whole ms."""
WAITING_MAX: Final = 100_000
"""Hits that may wait for batches; one more is decided without the store."""


class TokenBatch:
    """Tokens of one key: those left of its last batch, and the hits that wait for the next one."""

    __slots__ = ("ahead", "asking", "left", "remaining", "stale", "until_us", "waiting")

    def __init__(self) -> None:
        self.left = 0
        self.until_us = 0
        """The time at which tokens taken ahead expire."""
        self.remaining = 0
        """The tokens that the store had left after the last batch."""
        self.ahead: int | None = None
        """The number of tokens to take beyond those waited for; None: nothing is known yet."""
        self.asking = False
        self.stale = False
        """Whether what has been asked for was to be forgotten meanwhile: it is for those who wait alone."""
        self.waiting: deque[tuple[int, Done]] = deque()

    def spend(self, cost: int, now_us: int) -> StoreVerdicts | None:
        """Spend `cost`; None where that is not there."""
        if self.until_us <= now_us:
            self.left = 0
        if cost > self.left:
            return None
        self.left -= cost
        return [1, self.remaining + self.left, 0, self.until_us - now_us, 0]

    def to_take(self, rule: Rule) -> int:
        """Return how many tokens to ask the store for."""
        ahead = rule.lease if self.ahead is None else min(rule.lease, self.ahead)
        wanted = sum(cost for cost, _ in self.waiting) - self.left
        return min(max(wanted, 1) + ahead - 1, rule.count) if ahead else min(max(wanted, 1), rule.count)


class TokenBatches:
    """The batches of up to `keys_max` keys, by their place in the store; one more drops the oldest, unspent.

    `tell(done, answer)` calls a callback with its answer; it raises nothing.
    """

    def __init__(self, keys_max: int, tell: Callable[[Done, Any], None]) -> None:
        self._keys_max = keys_max
        self._tell = tell
        self._batches: dict[str, TokenBatch] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._batches)

    def spend(self, rule: Rule, place: str, cost: int, now_us: int, done: Done) -> int:
        """Spend `cost` and tell `done`, or let it wait; return how many tokens to take for it, 0: none.

        Whoever gets a number asks the store, then calls `filled` or `fail_waiting`.
        """
        batch = self._batches.get(place)
        if batch is None:
            batch = self._add(place)
        if not batch.waiting and (said := batch.spend(cost, now_us)) is not None:
            self._tell(done, said)
            return 0
        if self._waiting >= WAITING_MAX:
            self._tell(done, GivenUp.LATE_SELF)
            return 0
        self._waiting += 1
        batch.waiting.append((cost, done))
        if batch.asking:
            return 0
        batch.asking = True
        return batch.to_take(rule)

    def filled(self, rule: Rule, place: str, said: StoreVerdicts, asked_us: int, now_us: int) -> int:
        """Give out what the store gave and return how many more to take, 0: none.

        `said` begins with how many there are; its `retry` is that of a cost of 1. Who has waited gets its part even
        if the window has ended meanwhile, as with any answer that comes late.
        """
        batch = self._batches.get(place)
        if batch is None:
            return 0
        taken, remaining, retry, reset, blocked = said
        if batch.until_us <= now_us:
            batch.left = 0
        batch.left += taken
        batch.until_us = asked_us + reset - EARLY_US
        batch.remaining = remaining
        batch.ahead = remaining // PART_AHEAD
        batch.asking = False
        deliveries: list[tuple[Done, StoreVerdicts]] = []
        while batch.waiting and batch.waiting[0][0] <= batch.left:
            cost, done = batch.waiting.popleft()
            batch.left -= cost
            deliveries.append((done, [1, remaining + batch.left, 0, reset, 0]))
        more = 0
        if batch.waiting and taken and remaining:
            batch.asking = True
            more = batch.to_take(rule)
        else:
            # The store has nothing left: what does not fit into the rest is refused.
            for cost, done in batch.waiting:
                fits = cost <= batch.left
                batch.left -= cost if fits else 0
                verdict = [1, batch.left, 0, reset, 0] if fits else [0, batch.left, retry, reset, blocked]
                deliveries.append((done, verdict))
            batch.waiting.clear()
        if batch.stale and not more:
            batch.left, batch.ahead, batch.stale = 0, None, False
        self._waiting -= len(deliveries)
        for done, verdict in deliveries:
            self._tell(done, verdict)
        return more

    def fail_waiting(self, place: str, why: object) -> None:
        """Tell everybody who waits why the store did not answer."""
        batch = self._batches.get(place)
        if batch is not None:
            batch.asking = False
            waiting, batch.waiting = batch.waiting, deque()
            self._waiting -= len(waiting)
            for _, done in waiting:
                self._tell(done, why)

    def forget_place(self, place: str | None) -> None:
        """Drop what is left for a place, or (None) for all: it was reset or blocked, or rules have changed."""
        for batch in self._batches.values() if place is None else filter(None, [self._batches.get(place)]):
            batch.left, batch.until_us, batch.ahead, batch.stale = 0, 0, None, batch.asking

    def _add(self, place: str) -> TokenBatch:
        if len(self._batches) >= self._keys_max:
            idle = next((known for known, batch in self._batches.items() if not batch.asking), None)
            if idle is not None:
                del self._batches[idle]
        batch = self._batches[place] = TokenBatch()
        return batch
