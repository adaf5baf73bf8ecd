"""Counting in this process: for one that is alone, and while the shared store is away."""

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from presence_server.throttle.algorithms import COUNTING, State
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Rule

KEYS_MAX: Final = 100_000
Place: TypeAlias = tuple[str, str | None]
"""A rule's place and a key; None: all the keys for which there is no room, which share one count."""
OVERFLOW: Final = None
ENDINGS_SPARE: Final = 64
SWEPT_AT_ONCE: Final = 2
"""Keys looked at when one is added: more than are added, so that what has ended does not pile up."""


def now_us() -> int:
    """Return a time in µs that only moves forward."""
    return time.monotonic_ns() // 1_000


class MemoryStore:
    """Counts up to `keys_max` keys.

    A key that still counts is never forgotten for a new one, which would reset an attacker; keys beyond the
    bound share one count for each rule.
    """

    def __init__(self, keys_max: int = KEYS_MAX, clock_us: Callable[[], int] = now_us) -> None:
        self._keys_max = keys_max
        self._now_us = clock_us
        self._states: dict[Place, tuple[State, Rule]] = {}
        self._endings: list[tuple[int, int, Place]] = []
        """When each state may be worth nothing, a number that no other entry has, and the state's place."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._states)

    def hit(self, rules: Sequence[Rule], key: str, cost: int) -> list[Verdict]:
        """Charge `cost` to every rule, or to none where one refuses."""
        now = self._now_us()
        verdicts = [self._look(rule, key, cost, now) for rule in rules]
        if all(verdict.allowed for verdict in verdicts):
            return [self._charge(rule, key, cost, now) for rule in rules]
        return [self._breach(rule, key, verdict, now) for rule, verdict in zip(rules, verdicts, strict=True)]

    def hit_one(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Charge `cost` to one rule: `hit` for the usual case, which has to be fast."""
        now = self._now_us()
        verdict = self._look(rule, key, cost, now)
        return (
            self._charge(rule, key, cost, now) if verdict.allowed else self._breach(rule, key, verdict, now)
        )

    def peek(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Say whether `cost` would be admitted."""
        return self._look(rule, key, cost, self._now_us())

    def refund(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Give back `cost`, where it was counted and has not been forgotten."""
        now = self._now_us()
        kept = self._states.get((rule.place, key))
        if kept is not None:
            counting = COUNTING[rule.algorithm]
            if counting.ends(kept[0], rule) > now:
                self._states[rule.place, key] = (counting.refund(kept[0], rule, cost, now), rule)
        return self._look(rule, key, 1, now)

    def reset(self, rule: Rule, key: str) -> Verdict:
        """Forget a key."""
        self._states.pop((rule.place, key), None)
        return self._look(rule, key, 1, self._now_us())

    def block(self, rule: Rule, key: str, us: int) -> Verdict:
        """Refuse a key for a while."""
        now = self._now_us()
        place = self._place(rule, key, now)
        self._keep(place, rule, COUNTING[rule.algorithm].block(self._state(place), rule, now + us, now))
        return self._look(rule, key, 1, now)

    def _look(self, rule: Rule, key: str, cost: int, now: int) -> Verdict:
        kept = self._states.get((rule.place, key))
        if kept is None and len(self._states) >= self._keys_max:
            kept = self._states.get((rule.place, OVERFLOW))
        return COUNTING[rule.algorithm].look(kept and kept[0], rule, cost, now)

    def _charge(self, rule: Rule, key: str, cost: int, now: int) -> Verdict:
        place = self._place(rule, key, now)
        counting = COUNTING[rule.algorithm]
        state = counting.charge(self._state(place), rule, cost, now)
        self._keep(place, rule, state)
        return counting.look(state, rule, 0, now)

    def _breach(self, rule: Rule, key: str, verdict: Verdict, now: int) -> Verdict:
        """Begin the block that a rule may want after a refusal."""
        if verdict.allowed or verdict.blocked or not rule.block_ms:
            return verdict
        us = max(rule.block_ms * 1_000, verdict.retry_us)
        place = self._place(rule, key, now)
        self._keep(place, rule, COUNTING[rule.algorithm].block(self._state(place), rule, now + us, now))
        return Verdict(
            allowed=False, remaining=0, retry_us=us, reset_us=max(verdict.reset_us, us), blocked=True
        )

    def _state(self, place: Place) -> State | None:
        kept = self._states.get(place)
        return kept and kept[0]

    def _place(self, rule: Rule, key: str, now: int) -> Place:
        """Return where a key is counted, with room made for it if there is any to be had."""
        place: Place = (rule.place, key)
        if place in self._states:
            return place
        self._sweep(now)
        return place if len(self._states) < self._keys_max else (rule.place, OVERFLOW)

    def _keep(self, place: Place, rule: Rule, state: State) -> None:
        known = place in self._states
        self._states[place] = (state, rule)
        if not known:
            self._push(place, state, rule)

    def _push(self, place: Place, state: State, rule: Rule) -> None:
        """Note when a state ends. Entries of states that were reset stay until they are half of all."""
        endings = self._endings
        if len(endings) > 2 * len(self._states) + ENDINGS_SPARE:
            endings.clear()
            for number, (known, (kept, counted)) in enumerate(self._states.items()):
                endings.append((COUNTING[counted.algorithm].ends(kept, counted), number, known))
            heapq.heapify(endings)
            self._serial = len(endings)
            return
        self._serial += 1
        heapq.heappush(endings, (COUNTING[rule.algorithm].ends(state, rule), self._serial, place))

    def _sweep(self, now: int) -> None:
        """Forget some of the keys that have ended."""
        endings = self._endings
        for _ in range(SWEPT_AT_ONCE):
            if not endings or endings[0][0] > now:
                return
            place = heapq.heappop(endings)[2]
            kept = self._states.get(place)
            if kept is None:
                continue
            end = COUNTING[kept[1].algorithm].ends(*kept)
            if end > now:
                self._push(place, *kept)
            else:
                del self._states[place]
