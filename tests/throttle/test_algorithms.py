"""How each algorithm counts, on a clock that is moved by hand, and its true bound."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import leases
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import ALGORITHMS, Algorithm, Rule
from tests.support.properties import examples

SECOND = 1_000_000


class Clock:
    """A clock in µs."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


class Counted:
    """A store on a clock of its own."""

    def __init__(
        self, algorithm: Algorithm, limit: str = "5/10s", block_ms: int = 0, keys_max: int = 100
    ) -> None:
        self.clock = Clock()
        self.store = ThrottleMemoryStore(keys_max, self.clock)
        self.rule = Rule("r", limit, algorithm, block_ms)

    def hit(self, cost: int = 1, key: str = "k") -> bool:
        return self.store.hit_one(self.rule, key, cost).allowed

    def admitted(self, times: int, cost: int = 1) -> int:
        return sum(self.hit(cost) for _ in range(times))

    def pass_s(self, seconds: float) -> None:
        self.clock.now += round(seconds * SECOND)


every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@every_algorithm
def test_the_limit_is_admitted_and_no_more(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    assert [counted.hit() for _ in range(7)] == [True] * 5 + [False] * 2


@every_algorithm
def test_a_refusal_says_when_to_come_back_and_is_right(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    counted.pass_s(3.3)
    counted.admitted(5)
    refused = counted.store.hit_one(counted.rule, "k", 1)
    assert not refused.allowed
    counted.clock.now += refused.retry_us - 2
    assert not counted.hit()
    counted.clock.now += 2
    assert counted.hit()


@every_algorithm
def test_at_the_reset_a_key_is_as_new(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    counted.pass_s(3.3)
    counted.admitted(4)
    verdict = counted.store.peek(counted.rule, "k", 1)
    assert (verdict.allowed, verdict.remaining) == (True, 1)
    counted.clock.now += verdict.reset_us
    assert counted.store.peek(counted.rule, "k", 1).remaining == 5
    assert counted.admitted(9) == 5


@every_algorithm
@pytest.mark.parametrize(("limit", "window_s", "rate"), [("5/10s", 10, 5), ("30/1s", 1, 30), ("1/3s", 3, 1)])
def test_the_sustained_rate_is_the_one_that_was_configured(
    algorithm: Algorithm, limit: str, window_s: int, rate: int
) -> None:
    counted = Counted(algorithm, limit)
    windows, steps = 20, 10 * rate
    admitted = 0
    for _ in range(windows * steps):
        admitted += counted.hit()
        counted.pass_s(window_s / steps)
    least = max(rate - 1, rate / 2) if algorithm == "counter" else rate
    assert windows * least * 0.9 <= admitted <= (windows + 1) * rate


@every_algorithm
def test_a_cost_counts_as_often_and_what_is_refused_is_not_counted(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    assert counted.hit(cost=3)
    assert not counted.hit(cost=3)
    assert counted.hit(cost=2)
    assert not counted.hit()


@every_algorithm
def test_looking_counts_nothing(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    for _ in range(20):
        assert counted.store.peek(counted.rule, "k", 5).allowed
    assert counted.admitted(9) == 5


@every_algorithm
def test_a_refund_gives_back_what_was_counted_and_never_more(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    counted.store.refund(counted.rule, "k", 3)
    assert len(counted.store) == 0
    counted.admitted(5)
    counted.store.refund(counted.rule, "k", 2)
    assert counted.admitted(9) == 2
    counted.store.refund(counted.rule, "k", 100)
    assert counted.admitted(20) == 5


@every_algorithm
def test_a_reset_forgets_and_a_block_refuses(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    counted.admitted(9)
    counted.store.reset(counted.rule, "k")
    assert counted.hit()
    blocked = counted.store.block(counted.rule, "k", 60 * SECOND)
    assert (blocked.allowed, blocked.retry_us) == (False, 60 * SECOND)
    counted.pass_s(59.9)
    assert not counted.hit()
    counted.pass_s(0.2)
    assert counted.hit()
    counted.store.block(counted.rule, "k", 60 * SECOND)
    counted.store.reset(counted.rule, "k")
    assert counted.hit()


@every_algorithm
def test_a_breach_blocks_for_as_long_as_the_rule_says_and_is_not_prolonged(algorithm: Algorithm) -> None:
    counted = Counted(algorithm, block_ms=60_000)
    counted.admitted(5)
    for _ in range(59):
        assert not counted.hit()
        counted.pass_s(1)
    counted.pass_s(1.1)
    assert counted.hit()


@every_algorithm
def test_one_key_knows_nothing_of_another(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    counted.admitted(9)
    assert counted.hit(key="other")


def test_a_fixed_window_can_admit_twice_the_limit_around_its_end() -> None:
    counted = Counted("fixed")
    assert counted.hit()
    counted.pass_s(9.9)
    assert counted.admitted(9) == 4
    counted.pass_s(0.2)
    assert counted.admitted(9) == 5


def test_a_bucket_holds_its_burst() -> None:
    counted = Counted("bucket", "10/1s burst 3")
    assert counted.admitted(9) == 3
    counted.pass_s(0.1)
    assert counted.admitted(9) == 1
    counted.pass_s(60)
    assert counted.admitted(9) == 3


GAPS = st.lists(st.integers(0, 4 * SECOND), min_size=1, max_size=80)


@given(gaps=GAPS, costs=st.lists(st.integers(1, 3), min_size=80, max_size=80))
@examples(200)
def test_no_window_of_a_sliding_log_has_more_than_the_limit(gaps: list[int], costs: list[int]) -> None:
    counted = Counted("sliding")
    admitted: list[int] = []
    for gap, cost in zip(gaps, costs, strict=False):
        counted.clock.now += gap
        if counted.hit(cost):
            admitted += [counted.clock.now] * cost
    for begin in admitted:
        assert sum(begin <= at < begin + 10 * SECOND for at in admitted) <= 5


@every_algorithm
@given(gaps=GAPS)
@examples(100)
def test_no_window_of_any_algorithm_has_more_than_twice_the_limit(
    algorithm: Algorithm, gaps: list[int]
) -> None:
    counted = Counted(algorithm)
    admitted = []
    for gap in gaps:
        counted.clock.now += gap
        if counted.hit():
            admitted.append(counted.clock.now)
    for begin in admitted:
        assert sum(begin <= at < begin + 10 * SECOND for at in admitted) <= 10


def test_the_bound_on_keys_holds_and_does_not_forget_an_attacker() -> None:
    counted = Counted("fixed", "5/1h", keys_max=1_000)
    counted.admitted(9)
    for n in range(10_000):
        counted.store.hit_one(counted.rule, f"key-{n}", 1)
    assert len(counted.store) <= 1_001
    assert not counted.hit()
    assert not counted.hit(key="one more that there is no room for")


def test_keys_that_have_ended_make_room() -> None:
    counted = Counted("fixed", "5/1s", keys_max=100)
    for n in range(10_000):
        assert counted.hit(key=f"key-{n}")
        counted.pass_s(0.1)
    assert len(counted.store) <= 20
    assert len(counted.store._ends._heap) <= 20


@every_algorithm
def test_hits_and_resets_in_turns_leave_nothing_behind(algorithm: Algorithm) -> None:
    counted = Counted(algorithm, "5/1h")
    for n in range(2_000):
        counted.hit(key="k")
        counted.store.reset(counted.rule, "k")
        counted.hit(key=f"key-{n}")
        counted.store.reset(counted.rule, f"key-{n}")
    assert len(counted.store) == 0
    assert len(counted.store._ends._heap) <= 100


def test_the_count_that_keys_without_room_share_is_no_users_key() -> None:
    counted = Counted("fixed", keys_max=1)
    counted.hit(key="first")
    assert counted.admitted(9) == 5
    for key in ("\0overflow", "", "None"):
        assert counted.store.peek(counted.rule, key, 1).remaining == 0
        counted.store.reset(counted.rule, key)
    assert not counted.hit(key="another that there is no room for")


def test_no_two_rules_have_one_place() -> None:
    names = ["login", "login~sliding", "sliding:login", "fixed:login", "leases:concurrent", "concurrent"]
    rules = [Rule(name, "5/60s", algorithm) for name in names for algorithm in ALGORITHMS]
    rules += [Rule(name, "5/30s", "counter") for name in names]
    assert len({*(rule.place for rule in rules), leases.PLACE}) == len(rules) + 1


@every_algorithm
def test_a_shorter_window_takes_effect_at_once_but_ends_no_block(algorithm: Algorithm) -> None:
    counted = Counted(algorithm, "5/1h")
    counted.admitted(9)
    counted.store.block(counted.rule, "blocked", 3_600 * SECOND)
    counted.rule = Rule("r", "5/10s", algorithm)
    counted.hit()
    counted.pass_s(10.1)
    assert counted.hit()
    if algorithm != "counter":
        assert not counted.hit(key="blocked")


def test_a_bucket_of_another_rate_misses_as_many_tokens_as_before() -> None:
    counted = Counted("bucket", "5/1h")
    counted.admitted(3)
    counted.rule = Rule("r", "50/10s burst 5", "bucket")
    assert counted.store.peek(counted.rule, "k", 1).remaining == 2
    assert counted.admitted(9) == 2
    counted.pass_s(0.2)
    assert counted.admitted(9) == 1


@every_algorithm
def test_a_charge_counts_without_asking_and_up_to_the_limit(algorithm: Algorithm) -> None:
    counted = Counted(algorithm)
    assert counted.hit(cost=3)
    charged = counted.store.charge(counted.rule, "k", 1)
    assert (charged.allowed, charged.remaining) == (True, 1)
    charged = counted.store.charge(counted.rule, "k", 4)
    assert (charged.allowed, charged.remaining) == (False, 0)
    assert charged == counted.store.peek(counted.rule, "k", 1)
    assert counted.store.charge(counted.rule, "k", 4) == charged
    counted.pass_s(20.1)
    assert counted.admitted(9) == 5
    counted.store.block(counted.rule, "k", 30 * SECOND)
    assert counted.store.charge(counted.rule, "k", 2).blocked
    counted.store.charge(counted.rule, "other", 99)
    assert not counted.hit(key="other")


def test_a_refusal_of_a_full_log_takes_as_long_as_one_of_a_short_log() -> None:
    def seconds(limit: int) -> float:
        counted = Counted("sliding", f"{limit}/1h")
        for _ in range(limit):
            counted.clock.now += 7
            assert counted.hit()
        best = 1.0
        for _ in range(50):
            begin = time.perf_counter()
            for cost in (1, 2, limit):
                assert not counted.hit(cost)
            best = min(best, time.perf_counter() - begin)
        return best

    assert seconds(10_000) < 20 * seconds(10)


def test_a_log_forgets_what_is_out_of_sight() -> None:
    counted = Counted("sliding", "1000/1s")
    for _ in range(20_000):
        assert counted.hit()
        counted.pass_s(0.01)
    (kept,) = counted.store._kept.values()
    assert len(kept.state.times) <= 300


def test_a_counter_of_another_window_counts_by_itself() -> None:
    counted = Counted("counter", "5/10s")
    other = Rule("r", "5/1s", "counter")
    admitted = 0
    for _ in range(100):
        admitted += counted.hit()
        counted.store.hit_one(other, "k", 1)
    assert admitted == 5


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "", "limit": "1/1s"}, "name"),
        ({"name": "a", "limit": "1 per second"}, "COUNT/WINDOW"),
        ({"name": "a", "limit": ""}, "needs a limit"),
        ({"name": "a", "limit": "0/1s"}, "from 1"),
        ({"name": "a", "limit": "1/1s burst 2"}, "only the bucket"),
        ({"name": "a", "limit": "1/1s", "algorithm": "leaky"}, "fixed, sliding, counter, bucket"),
        ({"name": "a", "limit": "20000/1s", "algorithm": "sliding"}, "at most"),
        ({"name": "a", "limit": "1/1s", "block_ms": -1}, "negative"),
    ],
)
def test_a_rule_that_is_wrong_says_what_and_where(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        Rule(**fields)  # type: ignore[arg-type]  # that is what is tried
    assert repr(fields["name"]) in str(caught.value)
