"""Counting in this process: for one that is alone, and while the shared store is away."""

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from presence_server.throttle.algorithms import COUNTING, SLOTS, State
from presence_server.throttle.batch import Verb
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rows import wall_us
from presence_server.throttle.rule import Rule
from presence_server.timers import Timers

KEYS_MAX: Final = 100_000
Place: TypeAlias = tuple[str, str | None]
"""A rule's place and a key; None: all the keys for which there is no room, which share one count."""
OVERFLOW: Final = None
SWEPT_AT_ONCE: Final = 2
"""Keys looked at when one is added: more than are added, so that what has ended does not pile up."""


def now_us() -> int:
    """Return a time in µs that only moves forward."""
    return time.monotonic_ns() // 1_000


class Kept:
    """The state of a key, and the rule under which it was counted last."""

    __slots__ = ("counting", "rule", "state")

    def __init__(self, state: State, rule: Rule) -> None:
        self.state = state
        self.rule = rule
        self.counting = COUNTING[rule.algorithm]


class ThrottleMemoryStore:
    """Counts up to `keys_max` keys.

    A key that still counts is never forgotten for a new one, which would reset an attacker; keys beyond the
    bound share one count for each rule. Windows go by `clock_us`, which no change of this machine's time of
    day moves; quotas of the calendar go by that, `wall_us`.
    """

    def __init__(
        self,
        keys_max: int = KEYS_MAX,
        clock_us: Callable[[], int] = now_us,
        wall_us: Callable[[], int] = wall_us,
    ) -> None:
        self._keys_max = keys_max
        self._now_us = clock_us
        self._wall_us = wall_us
        self._kept: dict[Place, Kept] = {}
        self._ends: Timers[Place] = Timers()
        """The earliest end of each state, by `clock_us`. Hits that prolong a state leave its entry to `_sweep`."""

    def __len__(self) -> int:
        return len(self._kept)

    def hit(self, rules: Sequence[Rule], key: str, cost: int) -> list[Verdict]:
        """Charge `cost` to every rule, or to none where one refuses."""
        if len(rules) == 1:
            return [self.hit_one(rules[0], key, cost)]
        verdicts = [self.peek(rule, key, cost) for rule in rules]
        if all(verdict.allowed for verdict in verdicts):
            return [self.hit_one(rule, key, cost) for rule in rules]
        return [self._breach(rule, key, verdict) for rule, verdict in zip(rules, verdicts, strict=True)]

    def hit_one(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Charge `cost` to one rule: `hit` for the usual case, which has to be fast."""
        kept = self._kept.get((rule.place, key))
        if kept is None or kept.rule is not rule or rule.calendar is not None:
            kept = self._find(rule, key)
            if kept is None:
                return self._hit_first(rule, key, cost)
        now = self._now_us() if rule.calendar is None else self._wall_us()
        kept.state, verdict = kept.counting.hit(kept.state, rule, cost, now)
        return verdict if verdict[0] or not rule.block_ms else self._breach(rule, key, verdict)

    def peek(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Say whether `cost` would be admitted."""
        kept = self._find(rule, key)
        return COUNTING[rule.algorithm].look(kept and kept.state, rule, cost, self._now(rule))

    def charge(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Count `cost` without asking whether it fits, up to the limit; return what `peek` says then."""
        counted = min(cost, self.peek(rule, key, 1).remaining)
        if counted > 0:
            self.hit_one(rule, key, counted)
        return self.peek(rule, key, 1)

    def refund(self, rule: Rule, key: str, cost: int) -> Verdict:
        """Give back `cost`, where it was counted and has not been forgotten."""
        kept = self._find(rule, key)
        now = self._now(rule)
        if kept is not None and kept.counting.ends(kept.state, rule) > now:
            kept.state = kept.counting.refund(kept.state, rule, cost, now)
        return self.peek(rule, key, 1)

    def reset(self, rule: Rule, key: str) -> Verdict:
        """Forget a key."""
        self._drop((rule.place, key))
        return self.peek(rule, key, 1)

    def block(self, rule: Rule, key: str, us: int) -> Verdict:
        """Refuse a key for a while."""
        now = self._now(rule)
        kept = self._find(rule, key)
        state = COUNTING[rule.algorithm].block(kept and kept.state, rule, now + us, now)
        if kept is None:
            self._add(rule, key, state)
        else:
            kept.state = state
        return self.peek(rule, key, 1)

    def acquire(self, rule: Rule, key: str, token: str) -> Verdict:
        """Take a slot, or renew the one that the token has."""
        kept = self._find(rule, key)
        held, verdict = SLOTS.acquire(kept.state if kept else None, rule, token, self._now_us())
        if kept is None and held:
            self._add(rule, key, held)
        return verdict

    def renew(self, rule: Rule, key: str, token: str) -> Verdict:
        """Hold a slot for longer; refused where the token has none any more."""
        kept = self._find(rule, key)
        return SLOTS.renew(kept.state if kept else None, rule, token, self._now_us())[1]

    def release(self, rule: Rule, key: str, token: str) -> Verdict:
        """Give a slot back."""
        kept = self._find(rule, key)
        held, verdict = SLOTS.release(kept.state if kept else None, rule, token, self._now_us())
        if not held:
            self._drop((rule.place, key))
        return verdict

    def change(self, verb: Verb, rule: Rule, key: str, number: int) -> Verdict:
        """Charge, refund, reset or block a key, as the verb says; any other verb peeks."""
        match verb:
            case "charge":
                return self.charge(rule, key, number)
            case "refund":
                return self.refund(rule, key, number)
            case "reset":
                return self.reset(rule, key)
            case "block":
                return self.block(rule, key, number)
            case _:
                return self.peek(rule, key, number)

    def change_slot(self, verb: Verb, rule: Rule, key: str, token: str) -> Verdict:
        """Acquire, renew or release a slot."""
        if verb == "acquire":
            return self.acquire(rule, key, token)
        return self.renew(rule, key, token) if verb == "renew" else self.release(rule, key, token)

    def _now(self, rule: Rule) -> int:
        return self._now_us() if rule.calendar is None else self._wall_us()

    def _find(self, rule: Rule, key: str) -> Kept | None:
        """Return what is known of a key, as the rule that is asked about would have it."""
        place: Place = (rule.place, key)
        kept = self._kept.get(place)
        if kept is None:
            if len(self._kept) >= self._keys_max:
                self._sweep()
            if len(self._kept) < self._keys_max:
                return None
            place = (rule.place, OVERFLOW)
            kept = self._kept.get(place)
            if kept is None:
                return None
        if kept.rule is not rule or rule.calendar is not None:
            if self._end(kept) <= self._now_us():
                self._drop(place)
                return None
            kept.state = kept.counting.adapt(kept.state, rule, self._now(rule))
            kept.rule = rule
        return kept

    def _hit_first(self, rule: Rule, key: str, cost: int) -> Verdict:
        state, verdict = COUNTING[rule.algorithm].hit(None, rule, cost, self._now(rule))
        if verdict.allowed:
            self._add(rule, key, state)
            return verdict
        return self._breach(rule, key, verdict)

    def _breach(self, rule: Rule, key: str, verdict: Verdict) -> Verdict:
        """Begin the block that a rule may want after a refusal."""
        if verdict.allowed or verdict.blocked or not rule.block_ms:
            return verdict
        us = max(rule.block_ms * 1_000, verdict.retry_us)
        self.block(rule, key, us)
        return Verdict(
            allowed=False, remaining=0, retry_us=us, reset_us=max(verdict.reset_us, us), blocked=True
        )

    def _add(self, rule: Rule, key: str, state: State) -> None:
        """Keep the state of a key that was not known, where there is room or room can be made."""
        self._sweep()
        place: Place = (rule.place, key if len(self._kept) < self._keys_max else OVERFLOW)
        kept = self._kept[place] = Kept(state, rule)
        self._ends.schedule(place, self._end(kept))

    def _drop(self, place: Place) -> None:
        self._kept.pop(place, None)
        self._ends.cancel(place)

    def _end(self, kept: Kept) -> int:
        """Return when a state is worth nothing any more, by `clock_us`."""
        end = kept.counting.ends(kept.state, kept.rule)
        return end if kept.rule.calendar is None else end - self._wall_us() + self._now_us()

    def _sweep(self) -> None:
        """Forget some of the keys that have ended."""
        now = self._now_us()
        for place in self._ends.pop_due(now, SWEPT_AT_ONCE):
            end = self._end(self._kept[place])
            if end > now:
                self._ends.schedule(place, end)
            else:
                del self._kept[place]
