"""The rules of counting, pure: a key's state, a cost and the time in; a verdict and a new state out.

`lua/throttle.lua` has the same, line for line. What is refused is not counted: a large cost that does not fit
takes nothing from the small ones that do. Times are µs.

Each algorithm has `look` (would this cost be admitted?), `charge` (count it), `refund` (give back), `block`
(refuse everything until a time) and `ends` (when the state may be forgotten). State None: never hit.
"""

from math import ceil, floor
from typing import Any, Final, Protocol, TypeAlias

from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Algorithm, Rule

BLOCKED: Final = 2**52
"""A fixed window's count that no limit reaches."""
TOLERANCE: Final = 0.5
"""µs that doubles of the size of a time since 1970 cannot tell apart."""
ROUNDING: Final = 1e-6
"""Parts of a token that do not count as missing."""
ADMITTED: Final = True
REFUSED: Final = False
State: TypeAlias = Any


class Counting(Protocol):
    """One algorithm."""

    def look(self, state: State | None, rule: Rule, cost: int, now: int) -> Verdict:
        """Say whether `cost` would be admitted now; `remaining` is what is left before it."""

    def charge(self, state: State | None, rule: Rule, cost: int, now: int) -> State:
        """Count `cost`, which `look` has admitted."""

    def refund(self, state: State, rule: Rule, cost: int, now: int) -> State:
        """Give back `cost`, never more than was counted."""

    def block(self, state: State | None, rule: Rule, until: int, now: int) -> State:
        """Refuse everything until then."""

    def ends(self, state: State, rule: Rule) -> int:
        """Return when the state is worth nothing any more."""


class Fixed:
    """A window that begins with a key's first hit. Across two windows twice the limit can pass.

    State: (count, end).
    """

    def look(self, state: tuple[int, int] | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        count, end = state if state is not None and state[0] and state[1] > now else (0, now)
        remaining = max(rule.count - count, 0)
        if cost <= remaining:
            return Verdict(ADMITTED, remaining, 0, end - now)
        return Verdict(REFUSED, remaining, end - now, end - now, blocked=count >= BLOCKED)

    def charge(self, state: tuple[int, int] | None, rule: Rule, cost: int, now: int) -> tuple[int, int]:
        """See `Counting`."""
        if state is not None and state[0] and state[1] > now:
            return state[0] + cost, state[1]
        return cost, now + rule.window_us

    def refund(self, state: tuple[int, int], rule: Rule, cost: int, now: int) -> tuple[int, int]:
        """See `Counting`; a block stays."""
        del rule, now
        count, end = state
        return (count if count >= BLOCKED else max(count - cost, 0)), end

    def block(self, state: tuple[int, int] | None, rule: Rule, until: int, now: int) -> tuple[int, int]:
        """See `Counting`."""
        del state, rule, now
        return BLOCKED, until

    def ends(self, state: tuple[int, int], rule: Rule) -> int:
        """See `Counting`."""
        del rule
        return state[1]


class SlidingLog:
    """The time of every unit in the window before now: no window of this length ever has more than the limit.

    State: (times in order, blocked until).
    """

    def look(self, state: tuple[list[int], int] | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        times, blocked = state or ([], 0)
        times = self._recent(times, rule, now)
        remaining = rule.count - len(times)
        reset = max(times[-1] + rule.window_us - now if times else 0, blocked - now, 0)
        if blocked > now:
            return Verdict(REFUSED, 0, blocked - now, reset, blocked=True)
        if cost <= remaining:
            return Verdict(ADMITTED, remaining, 0, reset)
        return Verdict(REFUSED, remaining, times[cost - remaining - 1] + rule.window_us - now, reset)

    def charge(
        self, state: tuple[list[int], int] | None, rule: Rule, cost: int, now: int
    ) -> tuple[list[int], int]:
        """See `Counting`."""
        times, blocked = state or ([], 0)
        return self._recent(times, rule, now) + [now] * cost, blocked

    def refund(self, state: tuple[list[int], int], rule: Rule, cost: int, now: int) -> tuple[list[int], int]:
        """See `Counting`: the newest go."""
        times, blocked = state
        times = self._recent(times, rule, now)
        return times[: max(len(times) - cost, 0)], blocked

    def block(
        self, state: tuple[list[int], int] | None, rule: Rule, until: int, now: int
    ) -> tuple[list[int], int]:
        """See `Counting`."""
        del rule, now
        return (state[0] if state else []), until

    def ends(self, state: tuple[list[int], int], rule: Rule) -> int:
        """See `Counting`."""
        times, blocked = state
        return max(times[-1] + rule.window_us if times else 0, blocked)

    @staticmethod
    def _recent(times: list[int], rule: Rule, now: int) -> list[int]:
        return [time for time in times if time > now - rule.window_us]


class SlidingCounter:
    """The count of a window, and the one before weighed by how much of it is still in sight.

    What asks without end is admitted up to one less than the limit in a window: the weighed part is no whole
    number.

    State: (window's number, its count, the count before, blocked until). Windows begin at multiples of their
    length since 1970.
    """

    def look(self, state: tuple[int, int, int, int] | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        number, count, before, blocked = self._at(state, rule, now)
        window = rule.window_us
        into = now - number * window
        used = before * (window - into) / window + count
        remaining = max(floor(rule.count - used), 0)
        reset = 2 * window - into if count > 0 else window - into if before > 0 else 0
        if blocked > now:
            return Verdict(REFUSED, 0, blocked - now, max(reset, blocked - now), blocked=True)
        if used + cost <= rule.count:
            return Verdict(ADMITTED, remaining, 0, reset)
        return Verdict(REFUSED, remaining, self._retry(count, before, into, rule, cost), reset)

    @staticmethod
    def _retry(count: int, before: int, into: int, rule: Rule, cost: int) -> int:
        """Return when enough of the past is out of sight."""
        window = rule.window_us
        if count + cost <= rule.count:
            free = rule.count - cost - count
            return max(ceil(window - free * window / before) - into, 1)
        free = rule.count - cost
        return max(ceil(window - free * window / count), 0) + window - into

    def charge(
        self, state: tuple[int, int, int, int] | None, rule: Rule, cost: int, now: int
    ) -> tuple[int, int, int, int]:
        """See `Counting`."""
        number, count, before, blocked = self._at(state, rule, now)
        return number, count + cost, before, blocked

    def refund(
        self, state: tuple[int, int, int, int], rule: Rule, cost: int, now: int
    ) -> tuple[int, int, int, int]:
        """See `Counting`: from this window, not from the one before."""
        number, count, before, blocked = self._at(state, rule, now)
        return number, max(count - cost, 0), before, blocked

    def block(
        self, state: tuple[int, int, int, int] | None, rule: Rule, until: int, now: int
    ) -> tuple[int, int, int, int]:
        """See `Counting`."""
        number, count, before, _ = self._at(state, rule, now)
        return number, count, before, until

    def ends(self, state: tuple[int, int, int, int], rule: Rule) -> int:
        """See `Counting`."""
        number, _, _, blocked = state
        return max((number + 2) * rule.window_us, blocked)

    @staticmethod
    def _at(state: tuple[int, int, int, int] | None, rule: Rule, now: int) -> tuple[int, int, int, int]:
        number = now // rule.window_us
        if state is None:
            return number, 0, 0, 0
        then, count, _, blocked = state
        if then == number:
            return state
        return number, 0, count if then == number - 1 else 0, blocked


class Bucket:
    """A token bucket, as the generic cell rate algorithm (GCRA): full with `count`, one token an interval.

    State: (when the bucket will be full, blocked until).
    """

    def look(self, state: tuple[float, int] | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        full, blocked = state or (now, 0)
        full = max(full, now)
        capacity = rule.count * rule.interval_us
        remaining = max(floor((capacity - (full - now)) / rule.interval_us + ROUNDING), 0)
        reset = ceil(full - now)
        if blocked > now:
            return Verdict(REFUSED, 0, blocked - now, max(reset, blocked - now), blocked=True)
        over = full - now + cost * rule.interval_us - capacity
        if over <= TOLERANCE:
            return Verdict(ADMITTED, remaining, 0, reset)
        return Verdict(REFUSED, remaining, ceil(over), reset)

    def charge(self, state: tuple[float, int] | None, rule: Rule, cost: int, now: int) -> tuple[float, int]:
        """See `Counting`."""
        full, blocked = state or (now, 0)
        return max(full, now) + cost * rule.interval_us, blocked

    def refund(self, state: tuple[float, int], rule: Rule, cost: int, now: int) -> tuple[float, int]:
        """See `Counting`."""
        full, blocked = state
        return max(full - cost * rule.interval_us, now), blocked

    def block(self, state: tuple[float, int] | None, rule: Rule, until: int, now: int) -> tuple[float, int]:
        """See `Counting`."""
        del rule
        return (state[0] if state else now), until

    def ends(self, state: tuple[float, int], rule: Rule) -> int:
        """See `Counting`."""
        del rule
        return ceil(max(state))


COUNTING: Final[dict[Algorithm, Counting]] = {
    "fixed": Fixed(),
    "sliding": SlidingLog(),
    "counter": SlidingCounter(),
    "bucket": Bucket(),
}
