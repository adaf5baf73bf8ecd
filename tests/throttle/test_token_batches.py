"""Tokens taken in batches: the bounds, over several processes with late answers, and on a real store."""

import asyncio
import heapq
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Limiter, Rule
from presence_server.throttle.batch import GivenUp, StoreVerdicts
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.token_batches import TokenBatches
from tests.support.properties import examples
from tests.support.redis_server import RedisServer

SECOND = 1_000_000
PLACE = "place"


def tell(done: Any, answer: Any) -> None:
    done(answer)


def test_so_many_wait_for_a_batch_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presence_server.throttle.token_batches.WAITING_MAX", 3)
    batches, answers = TokenBatches(10, tell), list[Any]()
    rule = Rule("r", "100/1h", lease=10)
    for _ in range(5):
        batches.spend(rule, PLACE, 1, 0, answers.append)
    assert answers == [GivenUp.LATE_SELF] * 2
    batches.fail_waiting(PLACE, GivenUp.AWAY)
    assert answers == [GivenUp.LATE_SELF] * 2 + [GivenUp.AWAY] * 3
    batches.spend(rule, PLACE, 1, 0, answers.append)
    assert len(answers) == 5


class Simulation:
    """Processes that share a store; time passes by events."""

    def __init__(self, rule: Rule, processes: int, seed: int, slowest_us: int) -> None:
        self.rule = rule
        self.now = 1_700_000_000 * SECOND
        self.random = random.Random(seed)  # noqa: S311 - a test that can be repeated
        self.slowest_us = slowest_us
        self.store = ThrottleMemoryStore(10, lambda: self.now, lambda: self.now)
        self.batches = [TokenBatches(10, tell) for _ in range(processes)]
        self.events: list[tuple[int, int, Any]] = []
        self.serial = 0
        self.taken = 0
        self.calls = 0
        self.admitted: list[tuple[int, int]] = []
        self.told = 0

    def later(self, us: int, do: Any) -> None:
        self.serial += 1
        heapq.heappush(self.events, (self.now + us, self.serial, do))

    def run(self) -> None:
        while self.events:
            self.now, _, do = heapq.heappop(self.events)
            do()

    def hit(self, process: int, cost: int) -> None:
        waits = [True]

        def done(said: StoreVerdicts) -> None:
            assert waits.pop(), "told twice"
            self.told += 1
            if said[0]:
                self.admitted.append((self.now, cost))
            else:
                assert said[2] > 0

        wanted = self.batches[process].spend(self.rule, PLACE, cost, self.now, done)
        self.take(process, wanted)

    def take(self, process: int, wanted: int) -> None:
        if not wanted:
            return
        asked_us = self.now
        self.calls += 1

        def at_store() -> None:
            look = self.store.peek(self.rule, "k", 1)
            taken = min(wanted, look.remaining)
            if taken:
                look = self.store.hit_one(self.rule, "k", taken)
                self.taken += taken
            retry = self.store.peek(self.rule, "k", 1).retry_us
            said = [taken, look.remaining, retry, look.reset_us, 0]
            self.later(self.random.randint(0, self.slowest_us), lambda: answered(said))

        def answered(said: StoreVerdicts) -> None:
            self.take(process, self.batches[process].filled(self.rule, PLACE, said, asked_us, self.now))

        self.later(self.random.randint(0, self.slowest_us), at_store)


HITS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(1, 4), st.sampled_from([0, 0, 0, 1_000, 50_000, 700_000, 3 * SECOND])
    ),
    min_size=1,
    max_size=150,
)


def simulated(rule: Rule, hits: list[tuple[int, int, int]], seed: int, slowest_us: int) -> Simulation:
    simulation = Simulation(rule, 3, seed, slowest_us)
    at = 0
    for process, cost, gap in hits:
        at += gap
        simulation.later(at, lambda process=process, cost=cost: simulation.hit(process, cost))
    simulation.run()
    assert simulation.told == len(hits)
    return simulation


@given(hits=HITS, lease=st.integers(1, 12), seed=st.integers(0, 1_000))
@examples(300)
def test_a_window_admits_no_more_than_its_limit(
    hits: list[tuple[int, int, int]], lease: int, seed: int
) -> None:
    """The windows of `12/day` begin at midnight, whoever hits first; nothing here lasts longer than a day."""
    simulation = simulated(Rule("r", "12/day", lease=lease), hits, seed, 20_000)
    admitted = sum(cost for _, cost in simulation.admitted)
    assert admitted <= 12
    assert simulation.taken - admitted <= 3 * lease


@given(hits=HITS, lease=st.integers(1, 12), seed=st.integers(0, 1_000))
@examples(300)
def test_no_batch_outlives_its_window(hits: list[tuple[int, int, int]], lease: int, seed: int) -> None:
    simulation = simulated(Rule("r", "12/2s", lease=lease), hits, seed, 20_000)
    # What is admitted was counted, and in any 2 s there are parts of two windows; an answer may be 40 ms late.
    for begin, _ in simulation.admitted:
        within = [cost for at, cost in simulation.admitted if begin <= at < begin + 2 * SECOND - 40_000]
        assert sum(within) <= 24
    assert sum(cost for _, cost in simulation.admitted) <= simulation.taken


@given(hits=HITS, lease=st.integers(1, 12), seed=st.integers(0, 1_000))
@examples(300)
def test_a_bucket_admits_what_was_held_in_addition(
    hits: list[tuple[int, int, int]], lease: int, seed: int
) -> None:
    rule = Rule("r", "12/2s", "bucket", lease=lease)
    simulation = simulated(rule, hits, seed, 20_000)
    late_us = 20_000
    for begin, _ in simulation.admitted:
        for end, _ in simulation.admitted:
            if end >= begin:
                within = sum(cost for at, cost in simulation.admitted if begin <= at <= end)
                assert within <= 12 + (end - begin + late_us) / rule.interval_us + 3 * lease


def test_the_store_is_asked_once_a_batch_and_exactly_near_the_limit() -> None:
    simulation = simulated(Rule("r", "1000/day", lease=50), [(0, 1, 1_000)] * 2_000, 1, 0)
    assert len(simulation.admitted) == 1_000 == simulation.taken
    # 750 / 50 batches, then a quarter of what is left each time, then one by one; refusals are remembered elsewhere.
    assert simulation.calls - 1_000 <= 60


def test_two_that_share_a_limit_leave_little_unspent() -> None:
    hits = [(n % 2, 1, 1_000) for n in range(1_100)] + [(2, 1, 0)]
    simulation = simulated(Rule("r", "1000/day", lease=50), hits, 1, 2_000)
    assert 990 <= len(simulation.admitted) <= 1_000


def test_what_is_forgotten_is_not_spent() -> None:
    batches, told = TokenBatches(10, tell), list[Any]()
    rule = Rule("r", "100/1h", lease=10)
    assert batches.spend(rule, PLACE, 1, 0, told.append) == 10
    batches.forget_place(PLACE)
    assert batches.filled(rule, PLACE, [10, 90, 0, SECOND, 0], 0, 10) == 0
    assert told[0][0] == 1
    assert batches.spend(rule, PLACE, 1, 20, told.append) == 10
    batches.filled(rule, PLACE, [10, 80, 0, SECOND, 0], 20, 30)
    assert batches.spend(rule, PLACE, 1, 40, told.append) == 0
    batches.forget_place(None)
    assert batches.spend(rule, PLACE, 1, 50, told.append) == 10
    batches.fail_waiting(PLACE, "away")
    assert told[-1] == "away"


def test_the_number_of_batches_is_bounded() -> None:
    batches = TokenBatches(10, tell)
    rule = Rule("r", "100/1h", lease=10)
    for n in range(1_000):
        batches.spend(rule, f"place-{n}", 1, 0, lambda _: None)
        batches.filled(rule, f"place-{n}", [10, 90, 0, SECOND, 0], 0, 0)
    assert len(batches) == 10


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"algorithm": "sliding", "lease": 2}, "a lease goes with fixed and bucket alone"),
        ({"lease": -1}, "lease is -1; it is from 0 to 5"),
        ({"lease": 6}, "lease is 6; it is from 0 to 5"),
    ],
)
def test_a_lease_that_is_wrong_says_so(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"rule 'r': {problem}"):
        Rule("r", "5/60s", **fields)


@pytest.mark.anyio
async def test_limiters_with_batches_hold_one_limit_and_ask_little(empty_server: RedisServer) -> None:
    def calls() -> int:
        stats = empty_server.ask("INFO", "commandstats")
        return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

    before = calls()
    rule = Rule("many", "3000/1h", lease=100)
    url = empty_server.url
    async with (
        Limiter([rule], redis=url, deadline_ms=20_000) as one,
        Limiter([rule], redis=url, deadline_ms=20_000) as two,
    ):
        admitted, before = 0, calls()
        for _ in range(2_000):
            for decision in await asyncio.gather(one.hit("many", "k"), two.hit("many", "k")):
                admitted += decision.allowed
                assert decision.source in {"redis", "deny_cache"}
        assert 3_000 - 2 * 100 <= admitted <= 3_000
        assert calls() - before < 300


@pytest.mark.anyio
async def test_a_block_reaches_every_batch(empty_server: RedisServer) -> None:
    rule = Rule("many", "3000/1h", lease=100)
    async with Limiter([rule], redis=empty_server.url, deadline_ms=20_000) as limiter:
        assert await limiter.connect(20)
        assert (await limiter.hit("many", "k")).remaining == 2_999
        assert (await limiter.hit("many", "k", 40)).remaining == 2_959
        await limiter.block("many", "k", 60_000)
        for _ in range(3):
            assert not (await limiter.hit("many", "k")).allowed
        await limiter.reset("many", "k")
        assert (await limiter.hit("many", "k")).allowed
