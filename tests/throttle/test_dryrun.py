"""A proposed rule played over recent decisions says what the rule would have done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Rule
from presence_server.throttle.dryrun import Logged, Played, play
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.memory import now_us as play_now
from presence_server.throttle.rule import ALGORITHMS, Algorithm

SECOND_US = 1_000_000


def logged(
    *hits: tuple[float, str], cost: int = 1, allowed: bool = True, rule: str = "login"
) -> list[Logged]:
    return [Logged(int(at_s * SECOND_US), rule, key, cost, allowed) for at_s, key in hits]


def test_it_says_who_would_have_been_refused_and_how_often() -> None:
    log = logged(
        *((n * 0.1, "eve") for n in range(10)), (1.0, "ada"), (1.1, "ada"), (70.0, "ada"), (70.1, "bob")
    )
    log += logged((70.2, "eve"), rule="another")
    log.append(Logged(71 * SECOND_US, "login", "eve", 1, allowed=False))
    done = play(log, "login", Rule("proposed", "2/60s"), 1)
    assert (done.logged, done.played, done.over_ms) == (15, 15, 71_000)
    assert (done.refused, done.was_refused, done.keys, done.keys_refused) == (8, 1, 3, 1)
    assert done.top == [Played("eve", 11, 8, 1)]


def test_a_cost_beyond_the_limit_is_refused_and_charges_nothing() -> None:
    log = logged((0, "ada"), cost=5) + logged((1, "ada"), cost=2)
    done = play(log, "login", Rule("proposed", "2/60s"), 10)
    assert (done.refused, done.keys_refused) == (1, 1)


def test_a_block_of_the_proposed_rule_counts() -> None:
    log = logged((0, "ada"), (1, "ada"), (12, "ada"), (100, "ada"))
    assert play(log, "login", Rule("proposed", "1/10s"), 10).refused == 1
    assert play(log, "login", Rule("proposed", "1/10s", block_ms=60_000), 10).refused == 2


def test_a_quota_of_the_calendar_is_played_by_the_day() -> None:
    now_us = play_now()
    log = [
        Logged(now_us - days * 86_400 * SECOND_US, "login", "ada", 1, allowed=True) for days in (2, 1, 1, 0)
    ]
    assert play(log, "login", Rule("proposed", "1/day"), 10).refused == 1


def test_nothing_logged_is_nothing_played() -> None:
    done = play([], "login", Rule("proposed", "1/10s"), 10)
    assert (done.played, done.over_ms, done.top) == (0, 0, [])


def test_it_ends_when_its_time_is_over_and_says_how_far_it_came() -> None:
    log = logged(*((n / 1_000, "ada") for n in range(5_000)))
    reads = iter([0, *range(0, 100, 10)])
    done = play(log, "login", Rule("proposed", "1/10s"), 10, budget_us=25, clock_us=lambda: next(reads))
    assert (done.logged, done.played) == (5_000, 2_000)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    hits=st.lists(
        st.tuples(st.integers(0, 3_000_000), st.sampled_from("abc"), st.integers(1, 3)), max_size=60
    )
)
def test_it_refuses_what_the_rule_itself_refuses(
    algorithm: Algorithm, hits: list[tuple[int, str, int]]
) -> None:
    rule = Rule("proposed", "3/1s", algorithm, block_ms=500)
    at_us, log = 0, []
    for gap_us, key, cost in hits:
        at_us += gap_us
        log.append(Logged(at_us, "login", key, cost, allowed=True))
    now_us = 0
    store = ThrottleMemoryStore(100, lambda: now_us)
    refused = 0
    for each in log:
        now_us = each.at_us
        refused += not store.hit([rule], each.key, each.cost)[0].allowed
    assert play(log, "login", rule, 10).refused == refused
