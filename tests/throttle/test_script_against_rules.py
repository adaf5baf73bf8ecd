"""The script and the pure rules are one set: at the server's own times they give the same verdicts."""

from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rule import ALGORITHMS, Algorithm, Rule
from tests.support.properties import examples
from tests.support.redis_server import RedisServer
from tests.throttle.shared_script import HOUR_US, MS, SECOND_US, Shared

LIMITS: dict[Algorithm, list[str]] = {
    "fixed": ["3/1h", "5/5ms"],
    "sliding": ["3/1h", "5/5ms"],
    "counter": ["3/1h", "5/5ms"],
    "bucket": ["3/1h", "5/5ms", "7/3ms burst 4", "3/1h burst 1"],
}
RULES = [
    Rule(f"{algorithm}-{i}-{block_ms}", limit, algorithm, block_ms)
    for algorithm in ALGORITHMS
    for i, limit in enumerate(LIMITS[algorithm])
    for block_ms in (0, 4)
]
CHANGED: dict[Algorithm, list[str]] = {
    "fixed": ["3/1h", "4/2h", "2/30m", "3/day", "2/year"],
    "sliding": ["3/1h", "4/2h", "2/30m"],
    "counter": ["3/1h", "4/5ms", "2/1h"],
    "bucket": ["3/1h", "4/5ms", "9/1h burst 2", "3/7ms burst 5"],
}
"""Versions of one rule: each is changed into each."""
VERBS = ["hit", "hit", "hit", "peek", "refund", "charge", "reset", "block", "change"]
STEPS = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(1, 3)),
    min_size=1,
    max_size=25,
)
TIMED_LIMITS: dict[Algorithm, str] = {"sliding": "5/1h", "counter": "5/1h", "bucket": "5/1h burst 7"}
TIMED = [
    Rule(f"{algorithm}-{block_ms}", limit, algorithm, block_ms)
    for algorithm, limit in TIMED_LIMITS.items()
    for block_ms in (0, HOUR_US // MS // 2)
]
"""What does not go by the TTL of its key: the server's own time stands still here."""
TIMED_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, HOUR_US // 5, HOUR_US // 3, HOUR_US - 1, HOUR_US, 2 * HOUR_US]),
        st.sampled_from(["hit", "hit", "hit", "peek", "charge", "refund", "refund", "block", "reset"]),
        st.integers(1, 4),
    ),
    min_size=5,
    max_size=40,
)


def versions(rule: Rule) -> list[Rule]:
    """Return the rule and what it may be changed into.

    A log of 5 ms goes with its key, whose TTL is in whole ms: a longer rule might still find it, or not.
    """
    if rule.algorithm == "sliding" and rule.window_us < SECOND_US:
        return [rule]
    others = [Rule(rule.name, limit, rule.algorithm, rule.block_ms) for limit in CHANGED[rule.algorithm]]
    return [rule, *others]


@given(first=st.sampled_from(RULES), steps=STEPS)
@examples(400)
def test_the_script_says_what_the_rules_say(
    shared_server: RedisServer, first: Rule, steps: list[tuple[str, int]]
) -> None:
    shared = Shared(shared_server)
    pure = ThrottleMemoryStore(100, lambda: shared.now_us, lambda: shared.now_us)
    rules, rule = versions(first), first
    try:
        for step, (verb, number) in enumerate(steps):
            if verb == "change":
                rule = rules[(step + number) % len(rules)]
                continue
            cost = min(number, rule.count)
            (said,) = shared.ask(verb, [rule], "k", number * 3 * MS if verb == "block" else cost)
            match verb:
                case "hit":
                    expected = pure.hit_one(rule, "k", cost)
                case "peek":
                    expected = pure.peek(rule, "k", cost)
                case "charge":
                    expected = pure.charge(rule, "k", cost)
                case "refund":
                    expected = pure.refund(rule, "k", cost)
                case "reset":
                    expected = pure.reset(rule, "k")
                case _:
                    expected = pure.block(rule, "k", number * 3 * MS)
            if rule.algorithm == "fixed":
                # Its window is the key's TTL, in whole ms that a server rounds as it likes.
                if rule.window_us < 100 * MS or rule.block_ms or verb == "block":
                    return
                assert (said.allowed, said.remaining, said.blocked) == (
                    expected.allowed,
                    expected.remaining,
                    expected.blocked,
                ), verb
                assert abs(said.reset_us - expected.reset_us) < 50 * MS, verb
            else:
                assert said == expected, verb
        assert -1 not in [shared.client.pttl(key) for key in shared.client.keys("*")]
    finally:
        shared.client.close()


@given(rule=st.sampled_from(TIMED), steps=TIMED_STEPS)
@examples(200)
def test_the_script_says_what_the_rules_say_whatever_time_passes(
    shared_server: RedisServer, rule: Rule, steps: list[tuple[int, str, int]]
) -> None:
    shared = Shared(shared_server)
    shared.drawn_us = 1_700_000_000 * SECOND_US
    pure = ThrottleMemoryStore(100, lambda: shared.drawn_us, lambda: shared.drawn_us)
    try:
        for passed_us, verb, number in steps:
            shared.drawn_us += passed_us
            block_us = number * HOUR_US // 3
            (said,) = shared.ask(verb, [rule], "k", block_us if verb == "block" else number)
            expected = {
                "hit": lambda n: pure.hit_one(rule, "k", n),
                "peek": lambda n: pure.peek(rule, "k", n),
                "charge": lambda n: pure.charge(rule, "k", n),
                "refund": lambda n: pure.refund(rule, "k", n),
                "reset": lambda n: pure.reset(rule, "k"),
                "block": lambda n: pure.block(rule, "k", n * HOUR_US // 3),
            }[verb](number)
            assert said == expected, (verb, passed_us)
            assert shared.now_us == shared.drawn_us
    finally:
        shared.client.close()
