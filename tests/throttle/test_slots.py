"""Slots, of which there is a number at a time: the pure rules, and the script that says the same."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Limiter
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import Rule
from presence_server.throttle.slots import NoSlotError
from tests.support.properties import examples
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from tests.throttle.shared_script import KEYS, Shared
from tests.throttle.test_algorithms import SECOND, Clock

JOBS = Rule("jobs", "2/60s", "slots")
TOKENS = ["a", "b", "c", "d"]


class Held:
    """A store on a clock that is moved by hand."""

    def __init__(self, rule: Rule = JOBS) -> None:
        self.clock = Clock()
        self.store = ThrottleMemoryStore(100, self.clock)
        self.rule = rule

    def acquire(self, token: str, key: str = "k") -> bool:
        return self.store.acquire(self.rule, key, token).allowed

    def pass_s(self, seconds: float) -> None:
        self.clock.now += round(seconds * SECOND)


def test_as_many_as_there_are_slots_hold_one() -> None:
    held = Held()
    assert [held.acquire(token) for token in TOKENS] == [True, True, False, False]
    assert held.acquire("c", key="other")
    assert held.store.release(JOBS, "k", "a").remaining == 1
    assert [held.acquire(token) for token in TOKENS[2:]] == [True, False]


def test_a_slot_that_is_asked_for_twice_is_one() -> None:
    held = Held()
    assert held.acquire("a")
    assert held.store.acquire(JOBS, "k", "a").remaining == 1
    assert [held.acquire(token) for token in "bac"] == [True, True, False]


def test_a_dead_holders_slot_comes_back_and_a_renewed_one_does_not() -> None:
    held = Held()
    assert held.acquire("dead")
    held.pass_s(30)
    assert held.acquire("alive")
    refused = held.store.acquire(JOBS, "k", "c")
    assert (refused.allowed, refused.retry_us) == (False, 30 * SECOND)
    held.pass_s(29.9)
    assert not held.acquire("c")
    assert held.store.renew(JOBS, "k", "alive").allowed
    held.pass_s(0.2)
    assert held.acquire("c")
    assert not held.store.renew(JOBS, "k", "dead").allowed
    held.pass_s(59.7)
    assert held.store.renew(JOBS, "k", "alive").allowed


def test_who_lost_a_slot_cannot_renew_it_even_where_others_are_free() -> None:
    held = Held()
    held.acquire("a")
    held.pass_s(61)
    refused = held.store.renew(JOBS, "k", "a")
    assert (refused.allowed, refused.remaining) == (False, 2)
    assert held.acquire("a")


def test_fewer_slots_after_a_change_leave_those_that_are_held() -> None:
    held = Held(Rule("jobs", "3/60s", "slots"))
    assert all(held.acquire(token) for token in "abc")
    held.rule = Rule("jobs", "1/10s", "slots")
    assert held.store.renew(held.rule, "k", "a").allowed
    assert not held.acquire("d")
    held.pass_s(10.1)
    assert not held.acquire("d")
    for token in "bc":
        held.store.release(held.rule, "k", token)
    assert held.acquire("d")


def test_nothing_is_kept_of_slots_that_were_given_back_or_ended() -> None:
    held = Held()
    for n in range(1_000):
        held.acquire("a", key=f"key-{n}")
        held.store.release(JOBS, f"key-{n}", "a")
        held.acquire("a", key=f"lost-{n % 50}")
        held.pass_s(10)
    assert len(held.store) <= 60
    assert len(held.store._ends._heap) <= 200


@pytest.mark.parametrize("fields", [{"limit": "10001/60s"}, {"limit": "5/60s", "block_ms": 5}])
def test_slots_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="there are 10000 slots at most, and no block_ms"):
        Rule("jobs", algorithm="slots", **fields)  # type: ignore[arg-type]  # that is what is tried


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire", "renew", "release", "change", "reset"]),
        st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=30,
)


@given(limits=st.permutations(["2/1h", "3/1h", "1/4ms", "3/9ms"]), steps=STEPS)
@examples(200)
def test_the_script_holds_what_the_rules_hold(
    shared_server: RedisServer, limits: list[str], steps: list[tuple[str, str]]
) -> None:
    shared = Shared(shared_server)
    pure = ThrottleMemoryStore(100, lambda: shared.now_us)
    rules = [Rule("jobs", limit, "slots") for limit in limits]
    try:
        for verb, token in steps:
            if verb == "change":
                rules.append(rules.pop(0))
                continue
            rule = rules[0]
            (said,) = shared.ask(verb, [rule], "k", token)
            expected = pure.reset(rule, "k") if verb == "reset" else getattr(pure, verb)(rule, "k", token)
            assert said == expected, verb
        assert -1 not in [shared.client.pttl(key) for key in shared.client.keys("*")]
    finally:
        shared.client.close()


def test_the_stores_key_goes_with_its_last_slot(empty_server: RedisServer) -> None:
    shared = Shared(empty_server)
    rule = Rule("jobs", "2/30ms", "slots")
    shared.ask("acquire", [rule], "k", "a")
    assert shared.client.zscore(KEYS.throttle("slots:jobs", "k"), "a") is not None
    shared.ask("release", [rule], "k", "a")
    assert shared.client.dbsize() == 0
    shared.ask("acquire", [rule], "k", "a")
    deadline = time.monotonic() + 20
    while shared.client.dbsize():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("shared", [True, False])
async def test_slots_are_held_in_a_with_block_and_given_back(empty_server: RedisServer, shared: bool) -> None:
    url = empty_server.url if shared else ""
    async with Limiter([JOBS], redis=url, deadline_ms=20_000) as limiter:
        async with limiter.slot("jobs", "k") as first, limiter.slot("jobs", "k"):
            assert first.decision is not None
            assert first.decision.source == ("redis" if shared else "local")
            with pytest.raises(NoSlotError, match="all 2 are held") as caught:
                async with limiter.slot("jobs", "k"):
                    raise AssertionError("there was a third")
            assert 0 < caught.value.decision.retry_after <= 60
        async with limiter.slot("jobs", "k"), limiter.slot("jobs", "k"):
            pass
        with pytest.raises(ValueError, match="a slot needs the algorithm slots"):
            limiter.slot(Rule("r", "5/60s"), "k")


@pytest.mark.anyio
async def test_a_slot_is_renewed_while_it_is_held_and_ends_with_its_process(
    empty_server: RedisServer,
) -> None:
    rule = Rule("jobs", "1/3s", "slots")
    place = KEYS.throttle("slots:jobs", "k")
    async with Limiter([rule], redis=empty_server.url, deadline_ms=20_000) as limiter:
        async with limiter.slot("jobs", "k") as slot:
            first = float(empty_server.ask("ZSCORE", place, slot.token))
            await until(lambda: float(empty_server.ask("ZSCORE", place, slot.token) or 0) > first)
            assert not slot.lost
            dead = limiter.slot("jobs", "dead")
            await dead.__aenter__()
            assert dead._timer is not None
            dead._timer.cancel()
        assert empty_server.ask("EXISTS", KEYS.throttle("slots:jobs", "dead"))
        await until(lambda: empty_server.ask("EXISTS", KEYS.throttle("slots:jobs", "dead")) == 0)


@pytest.mark.anyio
async def test_a_slot_that_an_emptied_store_gave_to_another_is_lost_and_said_so(
    empty_server: RedisServer,
) -> None:
    rule = Rule("jobs", "1/1500ms", "slots")
    lost: list[str] = []
    async with Limiter([rule], redis=empty_server.url, deadline_ms=20_000) as limiter:
        async with limiter.slot("jobs", "k", on_lost=lambda: lost.append("k")) as slot:
            empty_server.ask("FLUSHALL")
            await until(lambda: empty_server.ask("EXISTS", KEYS.throttle("slots:jobs", "k")) == 1)
            assert not slot.lost
            place = KEYS.throttle("slots:jobs", "k")
            empty_server.ask("DEL", place)
            empty_server.ask("ZADD", place, "9e15", "another")
            empty_server.ask("PEXPIRE", place, "60000")
            await until(lambda: slot.lost)
        assert lost == ["k"]


@pytest.mark.anyio
async def test_a_slot_that_a_late_store_gave_is_given_back(server: RedisServer) -> None:
    jobs = Rule("jobs", "3/1h", "slots")
    async with Limiter([jobs], redis=server.url, on_error="closed", deadline_ms=100) as limiter:
        async with limiter.slot("jobs", "k"):
            pass
        server.freeze()
        for _ in range(3):
            with pytest.raises(NoSlotError):
                async with limiter.slot("jobs", "k"):
                    pass
        server.thaw()
        await until(lambda: server.ask("KEYS", "*") == [], lambda: server.ask("KEYS", "*"))
