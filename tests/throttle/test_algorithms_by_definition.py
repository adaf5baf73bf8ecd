"""Each algorithm against what it is defined to be, written down plainly and reckoned without rounding: every field."""

from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from math import ceil, floor
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle.algorithms import COUNTING
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Algorithm, Rule
from tests.support.properties import examples

BEGIN_US = 1_700_000_000_000_000


class Definition:
    """What has been counted, and until when nothing is."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.hits: list[int] = []
        """When each was admitted, one for each of its cost."""
        self.blocked = 0

    def free(self, now: int) -> Fraction:
        """How much is admitted."""
        raise NotImplementedError

    def reset(self, now: int) -> int:
        """How long until all is as new."""
        raise NotImplementedError

    def back(self, cost: int, now: int) -> None:
        """Take back the newest."""
        del now
        del self.hits[max(len(self.hits) - cost, 0) :]

    def block(self, until: int) -> None:
        self.blocked = until

    def look(self, cost: int, now: int) -> Verdict:
        remaining, reset = max(floor(self.free(now)), 0), self.reset(now)
        if self.blocked > now:
            rest = self.blocked - now
            return Verdict(False, 0, rest, max(reset, rest), True)
        if cost <= self.free(now):
            return Verdict(True, remaining, 0, reset)
        # Nothing but time passes, so that there is only ever more: the first µs that has enough.
        low, high = 1, 4 * self.rule.window_us
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.free(now + middle) >= cost else (middle + 1, high)
        return Verdict(False, remaining, low, reset)

    def hit(self, cost: int, now: int) -> Verdict:
        look = self.look(cost, now)
        if not look.allowed:
            return look
        self.hits += [now] * cost
        return Verdict(True, floor(self.free(now)), 0, self.reset(now))


class Fixed(Definition):
    """The window begins with the first hit, and a block is a window that is full."""

    def _end(self) -> int:
        return self.hits[0] + self.rule.window_us if self.hits else 0

    def free(self, now: int) -> Fraction:
        return Fraction(self.rule.count - (len(self.hits) if self._end() > now else 0))

    def reset(self, now: int) -> int:
        return max(self._end() - now, 0)

    def hit(self, cost: int, now: int) -> Verdict:
        if self._end() <= now and self.blocked <= now:
            self.hits.clear()
        return super().hit(cost, now)

    def back(self, cost: int, now: int) -> None:
        if self.blocked <= now:
            super().back(cost, now)

    def block(self, until: int) -> None:
        self.hits.clear()
        super().block(until)


class Sliding(Definition):
    """Nothing but the window before now counts."""

    def _seen(self, now: int) -> list[int]:
        return [at for at in self.hits if at > now - self.rule.window_us]

    def free(self, now: int) -> Fraction:
        return Fraction(self.rule.count - len(self._seen(now)))

    def reset(self, now: int) -> int:
        return max(self._seen(now), default=now - self.rule.window_us) + self.rule.window_us - now

    def back(self, cost: int, now: int) -> None:
        super().back(min(cost, len(self._seen(now))), now)


class Counter(Definition):
    """Windows at multiples of their length; of the one before counts the part that is still in sight."""

    def _counts(self, now: int) -> tuple[int, int]:
        window = self.rule.window_us
        numbers = [at // window for at in self.hits]
        return numbers.count(now // window), numbers.count(now // window - 1)

    def free(self, now: int) -> Fraction:
        count, before = self._counts(now)
        window = self.rule.window_us
        return self.rule.count - (count + Fraction(before * (window - now % window), window))

    def reset(self, now: int) -> int:
        count, before = self._counts(now)
        window = self.rule.window_us
        return (2 * window if count else window if before else now % window) - now % window

    def back(self, cost: int, now: int) -> None:
        super().back(min(cost, self._counts(now)[0]), now)


class Bucket(Definition):
    """Full at first; a token an interval comes back, and none beyond what it holds."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.missing = Fraction(0)
        """µs until it is full, at `at`."""
        self.at = BEGIN_US

    def _missing(self, now: int) -> Fraction:
        return max(self.missing - (now - self.at), Fraction(0))

    def free(self, now: int) -> Fraction:
        return self.rule.count - self._missing(now) / Fraction(self.rule.interval_us)

    def reset(self, now: int) -> int:
        return ceil(self._missing(now))

    def hit(self, cost: int, now: int) -> Verdict:
        if self.look(cost, now).allowed:
            self.missing, self.at = self._missing(now) + cost * Fraction(self.rule.interval_us), now
            return Verdict(True, floor(self.free(now)), 0, self.reset(now))
        return self.look(cost, now)

    def back(self, cost: int, now: int) -> None:
        rest = self._missing(now) - cost * Fraction(self.rule.interval_us)
        self.missing, self.at = max(rest, Fraction(0)), now


DEFINITIONS: list[tuple[Callable[[Rule], Definition], Rule]] = [
    (Fixed, Rule("r", "5/1ms")),
    (Fixed, Rule("r", "1/3ms")),
    (Sliding, Rule("r", "5/1ms", "sliding")),
    (Sliding, Rule("r", "1/3ms", "sliding")),
    (Counter, Rule("r", "5/1ms", "counter")),
    (Counter, Rule("r", "1/3ms", "counter")),
    (Counter, Rule("r", "40/1ms", "counter")),
    (Bucket, Rule("r", "5/1ms", "bucket")),
    (Bucket, Rule("r", "4/2ms burst 6", "bucket")),
    (Bucket, Rule("r", "10/1ms burst 1", "bucket")),
]
VERBS = ["hit", "hit", "hit", "hit", "look", "refund", "block"]
GAPS_US = st.sampled_from(
    [0, 0, 0, 1, 37, 100, 200, 250, 499, 500, 700, 999, 1_000, 1_001, 1_999, 2_000, 3_000]
)
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(1, 6), GAPS_US), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("definition", "rule"), DEFINITIONS, ids=[f"{rule.algorithm}-{rule.limit}" for _, rule in DEFINITIONS]
)
@given(steps=STEPS)
@examples(100)
def test_an_algorithm_says_what_its_definition_says(
    definition: Callable[[Rule], Definition], rule: Rule, steps: list[tuple[str, int, int]]
) -> None:
    counting, defined = COUNTING[rule.algorithm], definition(rule)
    state: Any = None
    now = BEGIN_US
    for verb, number, gap_us in steps:
        now += gap_us
        cost = min(number, rule.count)
        if verb == "hit":
            state, said = counting.hit(state, rule, cost, now)
            assert said == defined.hit(cost, now)
        elif verb == "block":
            state = counting.block(state, rule, now + 150 * number, now)
            defined.block(now + 150 * number)
        elif verb == "refund" and state is not None and counting.ends(state, rule) > now:
            state = counting.refund(state, rule, cost, now)
            defined.back(cost, now)
        assert counting.look(state, rule, cost, now) == defined.look(cost, now)
        if state is not None:
            ends = counting.ends(state, rule)
            reset_us = defined.look(cost, now).reset_us
            if reset_us and rule.algorithm != "counter":
                assert ends == now + reset_us
            assert max(ends, now) >= now + reset_us
            later = max(ends, now)
            assert counting.look(deepcopy(state), rule, 1, later) == counting.look(None, rule, 1, later)


def test_every_algorithm_has_its_rules() -> None:
    assert set(COUNTING) == set(get_args(Algorithm))


@pytest.mark.parametrize("algorithm", ["fixed", "sliding", "bucket"])
def test_a_first_hit_of_more_than_the_limit_is_refused_and_leaves_nothing(algorithm: Algorithm) -> None:
    state, said = COUNTING[algorithm].hit(None, Rule("r", "5/1ms", algorithm), 6, BEGIN_US)
    assert (state, said.allowed, said.remaining, said.reset_us) == (None, False, 5, 0)


def test_a_high_count_is_no_block() -> None:
    rule = Rule("r", "1000000000/1h")
    state, _ = COUNTING["fixed"].hit(None, rule, 999_999_999, BEGIN_US)
    assert COUNTING["fixed"].look(state, rule, 2, BEGIN_US) == Verdict(
        False, 1, rule.window_us, rule.window_us
    )
    state = COUNTING["fixed"].refund(state, rule, 9, BEGIN_US)
    assert COUNTING["fixed"].look(state, rule, 2, BEGIN_US) == Verdict(True, 10, 0, rule.window_us)


def test_a_calendars_window_ends_when_its_period_does() -> None:
    rule = Rule("r", "5/day")
    midnight = 1_700_006_400_000_000
    state, said = COUNTING["fixed"].hit(None, rule, 2, midnight - 7)
    assert said == Verdict(True, 3, 0, 7)
    assert COUNTING["fixed"].hit(state, rule, 1, midnight)[1] == Verdict(True, 4, 0, 86_400_000_000)


# --- another version of the rule ---


def after_hits(rule: Rule, times: int, now: int) -> Any:
    state: Any = None
    for _ in range(times):
        state, said = COUNTING[rule.algorithm].hit(state, rule, 1, now)
        assert said.allowed
    return state


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param("5/1ms", Verdict(True, 2, 0, 900), id="the same"),
        pytest.param("4/9ms", Verdict(True, 1, 0, 900), id="a longer window prolongs nothing"),
        pytest.param("2/1ms", Verdict(False, 0, 900, 900), id="a lower limit"),
    ],
)
def test_a_fixed_window_goes_on_under_another_rule(limit: str, expected: Verdict) -> None:
    counting, rule = COUNTING["fixed"], Rule("r", limit)
    state = counting.adapt(after_hits(Rule("r", "5/1ms"), 3, BEGIN_US), rule, BEGIN_US + 100)
    assert counting.look(state, rule, 1, BEGIN_US + 100) == expected


def test_a_shorter_window_ends_sooner_and_a_block_does_not() -> None:
    counting, short = COUNTING["fixed"], Rule("r", "5/1ms")
    state = counting.adapt(after_hits(Rule("r", "5/1h"), 5, BEGIN_US), short, BEGIN_US + 100)
    assert counting.look(state, short, 1, BEGIN_US + 100) == Verdict(False, 0, 1_000, 1_000)
    blocked = counting.block(None, short, BEGIN_US + 9_000, BEGIN_US)
    assert counting.adapt(blocked, short, BEGIN_US) == blocked


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param("5/1ms", Verdict(True, 2, 0, 500), id="the same"),
        pytest.param("5/2ms", Verdict(True, 2, 0, 1_000), id="half as fast: as many are missing"),
        pytest.param("10/1ms burst 5", Verdict(True, 2, 0, 250), id="twice as fast"),
        pytest.param(
            "5/1ms burst 2", Verdict(False, 0, 200, 400), id="a smaller one: at most all are missing"
        ),
        pytest.param("5/2ms burst 2", Verdict(False, 0, 400, 800), id="smaller and slower"),
        pytest.param("5/1ms burst 9", Verdict(True, 6, 0, 500), id="a larger one"),
    ],
)
def test_a_bucket_goes_on_under_another_rule(limit: str, expected: Verdict) -> None:
    counting, rule, now = COUNTING["bucket"], Rule("r", limit, "bucket"), BEGIN_US + 100
    before = after_hits(Rule("r", "5/1ms", "bucket"), 3, BEGIN_US)
    state = counting.adapt(before, rule, now)
    assert counting.look(state, rule, 1, now) == expected
    assert counting.adapt(state, rule, now) == state
    blocked = counting.adapt(counting.block(before, rule, now + 77, now), rule, now)
    assert counting.look(blocked, rule, 1, now).retry_us == 77


def test_a_bucket_that_has_long_been_full_is_full_under_another_rule() -> None:
    counting, rule, now = COUNTING["bucket"], Rule("r", "3/7ms", "bucket"), BEGIN_US + 5_000
    state = counting.adapt(after_hits(Rule("r", "5/1ms", "bucket"), 3, BEGIN_US), rule, now)
    assert counting.look(state, rule, 3, now) == Verdict(True, 3, 0, 0)


@pytest.mark.parametrize("algorithm", ["sliding", "counter"])
def test_what_says_when_and_not_for_how_long_stays_under_another_rule(algorithm: Algorithm) -> None:
    rule = Rule("r", "9/4ms", algorithm)
    state = after_hits(Rule("r", "5/1ms", algorithm), 3, BEGIN_US)
    assert COUNTING[algorithm].adapt(state, rule, BEGIN_US) is state
