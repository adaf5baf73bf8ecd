"""The rules of counting, pure: a key's state, a cost and the time in; a verdict and a new state out.

`lua/` has the same, line for line. What is refused is not counted: a large cost that does not fit takes nothing
from the small ones that do. Times are µs; those of a rule that goes by the calendar are µs since 1970.

State None: never hit. A state may have been counted under another version of its rule: `adapt` comes first.
"""

from bisect import bisect_left
from math import ceil, floor
from typing import Any, Final, Protocol, TypeAlias

from presence_server.throttle.concurrency import Slots
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Algorithm, Rule

BLOCKED: Final = 2**52
"""A fixed window's count that no limit reaches."""
TOLERANCE: Final = 0.5
"""µs that doubles of the size of a time since 1970 cannot tell apart."""
COMPACT_AT: Final = 64
"""Entries of a log that are out of sight before they are cut off."""
REFUSED: Final = False
State: TypeAlias = Any
Tokens: TypeAlias = tuple[float, float, int]
"""A bucket's state."""
_new: Final = tuple.__new__


def _admitted(remaining: int, reset_us: int) -> Verdict:
    # As `Verdict(True, remaining, 0, reset_us)`, in half the time.
    return _new(Verdict, (True, remaining, 0, reset_us, False))


class Counting(Protocol):
    """One algorithm."""

    def look(self, state: State | None, rule: Rule, cost: int, now: int) -> Verdict:
        """Say whether `cost` would be admitted now; `remaining` is what is left before it."""

    def hit(self, state: State | None, rule: Rule, cost: int, now: int) -> tuple[State | None, Verdict]:
        """Count `cost` if it is admitted; `remaining` is what is left after that."""

    def refund(self, state: State, rule: Rule, cost: int, now: int) -> State:
        """Give back `cost`, never more than was counted."""

    def block(self, state: State | None, rule: Rule, until: int, now: int) -> State:
        """Refuse everything until then."""

    def adapt(self, state: State, rule: Rule, now: int) -> State:
        """Return what was counted under another version of the rule as this one would have it.

        Nothing but a block lasts longer than the rule's own window from now on.
        """

    def ends(self, state: State, rule: Rule) -> int:
        """Return when the state is worth nothing any more."""


def window_end(rule: Rule, now: int) -> int:
    """Return when a fixed window that begins now ends."""
    return now + rule.window_us if rule.calendar is None else rule.calendar.end(now)


SLOTS: Final = Slots()


class Fixed:
    """A window that begins with a key's first hit, or ends where the calendar's period does.

    Across two windows twice the limit can pass. State: (count, end).
    """

    def look(self, state: tuple[int, int] | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        count, end = state if state is not None and state[0] and state[1] > now else (0, now)
        remaining = max(rule.count - count, 0)
        if cost <= remaining:
            return _admitted(remaining, end - now)
        return Verdict(REFUSED, remaining, end - now, end - now, blocked=count >= BLOCKED)

    def hit(
        self, state: tuple[int, int] | None, rule: Rule, cost: int, now: int
    ) -> tuple[tuple[int, int] | None, Verdict]:
        """See `Counting`."""
        if state is not None:
            count, end = state
            if end > now and count:
                count += cost
                if count <= rule.count:
                    return (count, end), _admitted(rule.count - count, end - now)
                return state, self.look(state, rule, cost, now)
        if cost > rule.count:
            return state, self.look(state, rule, cost, now)
        end = window_end(rule, now)
        return (cost, end), _admitted(rule.count - cost, end - now)

    def refund(self, state: tuple[int, int], rule: Rule, cost: int, now: int) -> tuple[int, int]:
        """See `Counting`; a block stays."""
        del rule, now
        count, end = state
        return (count if count >= BLOCKED else max(count - cost, 0)), end

    def block(self, state: tuple[int, int] | None, rule: Rule, until: int, now: int) -> tuple[int, int]:
        """See `Counting`."""
        del state, rule, now
        return BLOCKED, until

    def adapt(self, state: tuple[int, int], rule: Rule, now: int) -> tuple[int, int]:
        """See `Counting`."""
        count, end = state
        return state if count >= BLOCKED else (count, min(end, window_end(rule, now)))

    def ends(self, state: tuple[int, int], rule: Rule) -> int:
        """See `Counting`."""
        del rule
        return state[1]


class Log:
    """The hits of a sliding log: the time of each, and how much had been counted with it.

    What comes before `head` is out of sight of some time that has been asked for; `before` was counted then.
    """

    __slots__ = ("before", "blocked", "head", "times", "totals")

    def __init__(self, blocked: int = 0) -> None:
        self.times: list[int] = []
        self.totals: list[int] = []
        self.head = 0
        self.before = 0
        self.blocked = blocked

    @property
    def total(self) -> int:
        """The total of all costs that were counted."""
        return self.totals[-1] if self.totals else self.before

    def forget_until(self, until: int) -> None:
        """Put hits up to a time out of sight, in O(log n); they are cut off now and then."""
        head = bisect_left(self.times, until + 1, self.head)
        if head == self.head:
            return
        self.head, self.before = head, self.totals[head - 1]
        if head >= COMPACT_AT and 2 * head >= len(self.times):
            del self.times[:head], self.totals[:head]
            self.head = 0


class SlidingLog:
    """The time of every hit in the window before now: no window of this length ever has more than the limit.

    State: a `Log`, which is changed in place: a copy for each hit would cost as much as the log is long.
    """

    def look(self, state: Log | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        if state is None:
            return Verdict(cost <= rule.count, rule.count, 0, 0)
        state.forget_until(now - rule.window_us)
        remaining = rule.count - (state.total - state.before)
        reset = state.times[-1] + rule.window_us - now if state.head < len(state.times) else 0
        if state.blocked > now:
            blocked_us = state.blocked - now
            return Verdict(REFUSED, 0, blocked_us, max(reset, blocked_us), blocked=True)
        if cost <= remaining:
            return _admitted(remaining, reset)
        # The first entry with which enough of what is counted leaves the window.
        last = bisect_left(state.totals, state.before + cost - remaining, state.head)
        return Verdict(REFUSED, max(remaining, 0), state.times[last] + rule.window_us - now, reset)

    def hit(self, state: Log | None, rule: Rule, cost: int, now: int) -> tuple[Log | None, Verdict]:
        """See `Counting`."""
        if state is None:
            if cost > rule.count:
                return None, self.look(None, rule, cost, now)
            state = Log()
        times, totals, window = state.times, state.totals, rule.window_us
        if state.head < len(times) and times[state.head] <= now - window:
            state.forget_until(now - window)
        total = (totals[-1] if totals else state.before) + cost
        remaining = rule.count - total + state.before
        if remaining < 0 or state.blocked > now:
            return state, self.look(state, rule, cost, now)
        totals.append(total)
        times.append(now)
        return state, _admitted(remaining, window)

    def refund(self, state: Log, rule: Rule, cost: int, now: int) -> Log:
        """See `Counting`: the newest go."""
        state.forget_until(now - rule.window_us)
        total = max(state.total - cost, state.before)
        last = bisect_left(state.totals, total, state.head) if total > state.before else state.head - 1
        del state.times[last + 1 :], state.totals[last + 1 :]
        if last >= state.head:
            state.totals[last] = total
        return state

    def block(self, state: Log | None, rule: Rule, until: int, now: int) -> Log:
        """See `Counting`."""
        del rule, now
        if state is None:
            return Log(until)
        state.blocked = until
        return state

    def adapt(self, state: Log, rule: Rule, now: int) -> Log:
        """See `Counting`: a log says when, not for how long."""
        del rule, now
        return state

    def ends(self, state: Log, rule: Rule) -> int:
        """See `Counting`."""
        return max(state.times[-1] + rule.window_us if state.times else 0, state.blocked)


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
            return _admitted(remaining, reset)
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

    def hit(
        self, state: tuple[int, int, int, int] | None, rule: Rule, cost: int, now: int
    ) -> tuple[tuple[int, int, int, int] | None, Verdict]:
        """See `Counting`."""
        window, limit = rule.window_us, rule.count
        number = now // window
        count = before = blocked = 0
        if state is not None:
            then, count, before, blocked = state
            if then != number:
                before = count if then == number - 1 else 0
                count = 0
        left = (number + 1) * window - now
        weighed = before * left / window
        if blocked > now or weighed + count + cost > limit:
            return state, self.look(state, rule, cost, now)
        count += cost
        remaining = int(limit - (weighed + count))
        return (number, count, before, blocked), _admitted(remaining, window + left)

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

    def adapt(self, state: tuple[int, int, int, int], rule: Rule, now: int) -> tuple[int, int, int, int]:
        """See `Counting`: a counter of another window is another place."""
        del rule, now
        return state

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

    State: (when the bucket will be full, the interval that was reckoned with, blocked until).
    """

    def look(self, state: Tokens | None, rule: Rule, cost: int, now: int) -> Verdict:
        """See `Counting`."""
        full, _, blocked = state or (now, 0, 0)
        full = max(full, now)
        capacity = rule.count * rule.interval_us
        remaining = max(floor((capacity - (full - now) + TOLERANCE) / rule.interval_us), 0)
        reset = ceil(full - now)
        if blocked > now:
            return Verdict(REFUSED, 0, blocked - now, max(reset, blocked - now), blocked=True)
        over = full - now + cost * rule.interval_us - capacity
        if over <= TOLERANCE:
            return _admitted(remaining, reset)
        return Verdict(REFUSED, remaining, ceil(over), reset)

    def hit(self, state: Tokens | None, rule: Rule, cost: int, now: int) -> tuple[Tokens | None, Verdict]:
        """See `Counting`."""
        interval = rule.interval_us
        full: float = now
        blocked = 0
        if state is not None:
            full, _, blocked = state
            if full < now:  # noqa: PLR1730 - a call of max() costs a tenth of the decision
                full = now
        full += cost * interval
        used, capacity = full - now, rule.count * interval
        if blocked > now or used - capacity > TOLERANCE:
            return state, self.look(state, rule, cost, now)
        remaining = int((capacity - used + TOLERANCE) / interval)
        return (full, interval, blocked), _admitted(remaining, ceil(used))

    def refund(self, state: Tokens, rule: Rule, cost: int, now: int) -> Tokens:
        """See `Counting`."""
        full, interval, blocked = state
        return max(full - cost * rule.interval_us, now), interval, blocked

    def block(self, state: Tokens | None, rule: Rule, until: int, now: int) -> Tokens:
        """See `Counting`."""
        return (now, rule.interval_us, until) if state is None else (*state[:2], until)

    def adapt(self, state: Tokens, rule: Rule, now: int) -> Tokens:
        """See `Counting`: as many tokens are missing as before, at most all."""
        full, interval, blocked = state
        capacity = rule.count * rule.interval_us
        if interval == rule.interval_us and full - now - capacity <= TOLERANCE:
            return state
        missing = max(full - now, 0) / interval * rule.interval_us
        return now + min(missing, capacity), rule.interval_us, blocked

    def ends(self, state: Tokens, rule: Rule) -> int:
        """See `Counting`."""
        del rule
        return ceil(max(state[0], state[2]))


COUNTING: Final[dict[Algorithm, Counting]] = {
    "fixed": Fixed(),
    "sliding": SlidingLog(),
    "counter": SlidingCounter(),
    "bucket": Bucket(),
    "slots": SLOTS,
}
