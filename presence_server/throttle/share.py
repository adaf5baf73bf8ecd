"""The share that a node may still admit while the shared store is away: its part of what was left.

Of a key whose count a node has last been told, it goes on with what `remaining` was then, divided by the nodes, until
that count ends; of any other key, and after that, with the limit divided by the nodes.

How far this is from the limit: let each of n nodes admit in an outage. In a window that begins in it, all of them
together admit the limit at most (or one each, where the limit is below n). In the window in which it began they admit
beyond the limit at most what their knowledge was behind by: nothing if every node's last answer for the key was the
newest, and never more than (n - 1) / n of the limit. `local` is bounded by n - 1 times the limit.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Final

from presence_server.throttle.decision import Verdict
from presence_server.throttle.memory import KEYS_MAX, ThrottleMemoryStore, now_us
from presence_server.throttle.rule import Rule

SCALED_MAX: Final = 1_000
"""Rules that are kept divided; beyond it all are divided anew."""


class Known:
    """The last answer of the store about a key: what is left, and until when that counts, µs."""

    __slots__ = ("part", "remaining", "until_us")

    def __init__(self, remaining: int, until_us: int) -> None:
        self.remaining = remaining
        self.until_us = until_us
        self.part = -1
        """This node's part of it, less what it has admitted; -1: the store is there, as far as is known."""


class Shares:
    """Decides for this node alone, by its part. `nodes` is how many share the store, or returns it.

    Remembers `keys_max` keys; one more drops the oldest, which counts as unknown then.
    """

    def __init__(
        self,
        nodes: int | Callable[[], int] = 1,
        keys_max: int = KEYS_MAX,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._nodes = nodes if callable(nodes) else lambda: nodes
        self._keys_max = keys_max
        self._clock_us = clock_us
        self._known: dict[str, Known] = {}
        self._memory = ThrottleMemoryStore(keys_max, clock_us)
        self._scaled: dict[tuple[Rule, int], Rule] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note_counts(self, places: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        """Remember what the store has said of each place (a rule's key there)."""
        now = self._clock_us()
        for place, verdict in zip(places, verdicts, strict=True):
            self._known.pop(place, None)
            remaining = 0 if verdict.blocked else verdict.remaining
            self._known[place] = Known(remaining, now + verdict.reset_us)
            if len(self._known) > self._keys_max:
                del self._known[next(iter(self._known))]

    def forget_place(self, place: str | None) -> None:
        """Forget what the store said of a place, or (None) of all: it has changed."""
        if place is None:
            self._known.clear()
        else:
            self._known.pop(place, None)

    def hit_share(
        self, rules: Sequence[Rule], places: Sequence[str], key: str, cost: int, *, charge: bool = True
    ) -> list[Verdict]:
        """Charge `cost` to this node's part under every rule, or to none where one refuses; or only look."""
        now = self._clock_us()
        nodes = max(self._nodes(), 1)
        known = [self._part(rule, place, key, nodes, now) for rule, place in zip(rules, places, strict=True)]
        verdicts = [
            self._look_at_share(rule, key, cost, nodes) if part is None else _look_at(part, cost, now)
            for rule, part in zip(rules, known, strict=True)
        ]
        refused = any(not v.allowed and not rule.shadow for rule, v in zip(rules, verdicts, strict=True))
        if refused or not charge:
            return verdicts
        for n, (rule, part) in enumerate(zip(rules, known, strict=True)):
            if not verdicts[n].allowed:
                continue
            if part is None:
                verdicts[n] = self._memory.hit_one(self._divided(rule, nodes), key, cost)
            else:
                part.part -= cost
                verdicts[n] = verdicts[n]._replace(remaining=part.part)
        return verdicts

    def _part(self, rule: Rule, place: str, key: str, nodes: int, now: int) -> Known | None:
        """Return the part of what is known of a key; None: it counts from here on by the divided rule."""
        known = self._known.get(place)
        if known is None:
            return None
        if rule.algorithm == "bucket":
            # A bucket refills meanwhile: its part is what is missing from a divided bucket.
            del self._known[place]
            divided = self._divided(rule, nodes)
            missing = divided.count - min(known.remaining // nodes, divided.count)
            if missing and known.until_us > now:
                self._memory.hit_one(divided, key, missing)
            return None
        if known.until_us <= now:
            del self._known[place]
            return None
        if known.part < 0:
            known.part = known.remaining // nodes
        return known

    def _look_at_share(self, rule: Rule, key: str, cost: int, nodes: int) -> Verdict:
        divided = self._divided(rule, nodes)
        if cost > divided.count:
            # More than this node's part ever is: nobody can tell whether the others have room for it.
            return Verdict(allowed=False, remaining=0, retry_us=rule.window_us, reset_us=rule.window_us)
        return self._memory.peek(divided, key, cost)

    def _divided(self, rule: Rule, nodes: int) -> Rule:
        """Return one node's part of a rule, at least 1."""
        found = self._scaled.get((rule, nodes))
        if found is None:
            if len(self._scaled) >= SCALED_MAX:
                self._scaled.clear()
            found = copy.copy(rule)
            count = max(rule.count // nodes, 1)
            object.__setattr__(found, "count", count)
            object.__setattr__(found, "interval_us", rule.interval_us * nodes)
            self._scaled[rule, nodes] = found
        return found


def _look_at(known: Known, cost: int, now: int) -> Verdict:
    left_us = known.until_us - now
    allowed = cost <= known.part
    return Verdict(allowed, known.part, 0 if allowed else left_us, left_us)
