"""An outage that is honest: each node admits its part of what was left, and all of them no more than is said."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.decision import Verdict
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import ALGORITHMS, Algorithm
from presence_server.throttle.share import Shares
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

SECOND_US = 1_000_000
START_US = 1_000 * SECOND_US


def told(remaining: int, reset_s: float = 60, *, blocked: bool = False) -> Verdict:
    return Verdict(remaining > 0, remaining, 0, int(reset_s * SECOND_US), blocked)


class Hand:
    """A clock."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


def admitted(shares: Shares, rule: Rule, times: int, key: str = "k", cost: int = 1) -> int:
    return sum(shares.hit_share([rule], [key], key, cost)[0].allowed for _ in range(times))


def test_what_was_left_is_divided_until_it_ends_then_the_limit_is() -> None:
    hand, rule = Hand(), Rule("login", "10/60s")
    shares = Shares(3, clock_us=hand)
    shares.note_counts(["k"], [told(7, 60)])
    assert admitted(shares, rule, 10) == 2
    (refused,) = shares.hit_share([rule], ["k"], "k", 1)
    assert (refused.remaining, refused.retry_us) == (0, 60 * SECOND_US)
    hand.now_us += 60 * SECOND_US
    assert admitted(shares, rule, 10) == 3
    hand.now_us += 60 * SECOND_US
    assert admitted(shares, rule, 10) == 3


def test_of_an_unknown_key_the_limit_is_divided_and_nobody_gets_nothing_for_ever() -> None:
    assert admitted(Shares(3, clock_us=Hand()), Rule("login", "10/60s"), 10) == 3
    assert admitted(Shares(30, clock_us=Hand()), Rule("login", "10/60s"), 10) == 1


def test_what_was_used_up_or_blocked_stays_refused() -> None:
    rule, hand = Rule("login", "10/60s"), Hand()
    shares = Shares(2, clock_us=hand)
    shares.note_counts(["used", "blocked"], [told(0, 30), told(5, 90, blocked=True)])
    assert admitted(shares, rule, 5, "used") == admitted(shares, rule, 5, "blocked") == 0
    hand.now_us += 31 * SECOND_US
    assert (admitted(shares, rule, 9, "used"), admitted(shares, rule, 9, "blocked")) == (5, 0)


def test_what_was_reset_is_not_held_against_a_key() -> None:
    shares, rule = Shares(2, clock_us=Hand()), Rule("login", "10/60s")
    for place in ("k", None):
        shares.note_counts(["k"], [told(0)])
        shares.forget_place(place)
    assert admitted(shares, rule, 10) == 5


def test_a_bucket_goes_on_with_its_part_and_refills_by_its_part_of_the_rate() -> None:
    rule, hand = Rule("api", "9/9s", "bucket"), Hand()
    shares = Shares(3, clock_us=hand)
    shares.note_counts(["k"], [told(3, 6)])
    assert admitted(shares, rule, 9) == 1
    hand.now_us += 3 * SECOND_US
    assert admitted(shares, rule, 9) == 1
    hand.now_us += 90 * SECOND_US
    assert admitted(shares, rule, 9) == 3


def test_what_the_store_says_again_counts_from_then_on() -> None:
    shares, rule = Shares(2, clock_us=Hand()), Rule("login", "10/60s")
    shares.note_counts(["k"], [told(4)])
    assert admitted(shares, rule, 9) == 2
    shares.note_counts(["k"], [told(8)])
    assert admitted(shares, rule, 9) == 4


def test_a_cost_beyond_this_nodes_part_is_refused_and_looking_charges_nothing() -> None:
    shares, rule = Shares(4, clock_us=Hand()), Rule("login", "10/60s", "sliding")
    assert shares.hit_share([rule], ["k"], "k", 3) == [Verdict(False, 0, 60 * SECOND_US, 60 * SECOND_US)]
    for _ in range(5):
        assert shares.hit_share([rule], ["k"], "k", 1, charge=False)[0].allowed
    assert admitted(shares, rule, 9) == 2


def test_several_rules_are_charged_together_or_not_at_all() -> None:
    shares, login, api = Shares(2, clock_us=Hand()), Rule("login", "10/60s"), Rule("api", "4/60s")
    shares.note_counts(["l"], [told(3)])
    verdicts = [shares.hit_share([login, api], ["l", "a"], "k", 1) for _ in range(3)]
    assert [[v.allowed for v in each] for each in verdicts] == [[True, True], [False, True], [False, True]]
    assert shares.hit_share([api], ["a"], "k", 1)[0].remaining == 0
    shadow = Rule("login", "10/60s", shadow=True)
    assert [v.allowed for v in shares.hit_share([shadow, Rule("x", "4/60s")], ["l", "x"], "k", 1)] == [
        False,
        True,
    ]
    assert shares.hit_share([Rule("x", "4/60s")], ["x"], "k", 1)[0].remaining == 0


def test_the_bound_on_known_keys_holds() -> None:
    shares = Shares(2, keys_max=3, clock_us=Hand())
    for n in range(9):
        shares.note_counts([str(n)], [told(8)])
    assert len(shares) == 3
    rule = Rule("login", "10/60s")
    assert (admitted(shares, rule, 9, "0"), admitted(shares, rule, 9, "8")) == (5, 4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    limit=st.integers(1, 12),
    nodes=st.integers(1, 4),
    before=st.lists(st.integers(0, 3), max_size=15),
    after=st.lists(st.integers(0, 3), max_size=80),
)
def test_all_nodes_together_admit_no_more_than_is_said(
    algorithm: Algorithm, limit: int, nodes: int, before: list[int], after: list[int]
) -> None:
    hand, rule = Hand(), Rule("login", f"{limit}/60s", algorithm)
    store = ThrottleMemoryStore(clock_us=hand)
    shares = [Shares(nodes, clock_us=hand) for _ in range(nodes)]
    newest = dict.fromkeys(range(nodes), limit)
    used = 0
    for asking in before:
        verdict = store.hit_one(rule, "k", 1)
        used += verdict.allowed
        shares[asking % nodes].note_counts(["k"], [verdict])
        newest[asking % nodes] = verdict.remaining
    in_outage = sum(shares[asking % nodes].hit_share([rule], ["k"], "k", 1)[0].allowed for asking in after)
    behind = max(newest.values()) - (limit - used)
    assert used + in_outage <= max(limit, nodes) + behind
    if set(newest.values()) == {limit - used}:
        assert used + in_outage <= max(limit, used + (nodes if not used else 0))


@pytest.mark.parametrize("heard", [False, True], ids=["one-node-was-asked", "every-node-was-asked"])
async def test_three_limiters_without_their_store_hold_the_limit_as_is_said(
    server: RedisServer, heard: bool
) -> None:
    rule = Rule("login", "30/600s")
    limiters = [Limiter([rule], redis=server.url, on_error="share", nodes=lambda: 3) for _ in range(3)]
    try:
        for limiter in limiters:
            assert await limiter.connect(30)
        before: list[Decision] = [await limiters[0].hit("login", "eve") for _ in range(9)]
        if heard:
            before += [await limiter.hit("login", "eve") for limiter in limiters]
        assert {decision.source for decision in before} == {"redis"}
        used = sum(decision.allowed for decision in before)
        server.freeze()
        flood = [limiter.hit("login", "eve") for limiter in limiters for _ in range(100)]
        after = await asyncio.gather(*flood)
        assert {decision.source for decision in after} <= {"share", "deny_cache"}
        assert not (await limiters[0].peek("login", "eve")).allowed
        let_in = sum(decision.allowed for decision in after)
        if heard:
            # They were told 20, 19 and 18: a third of each.
            assert (used, let_in) == (12, 18)
        else:
            # One was told 21, the others nothing: a third of it, and a third of the limit each.
            assert (used, let_in) == (9, 27)
        assert used + let_in <= 30 + 30 * 2 // 3
    finally:
        server.thaw()
        for limiter in limiters:
            await limiter.aclose()
