"""The script and the pure rules are one set: at the server's own times they give the same verdicts."""

from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from presence_server.redis_io.keys import Keys
from presence_server.throttle.dispatch import Batch
from presence_server.throttle.memory import MemoryStore
from presence_server.throttle.redis import Answers, ThrottleRedisStore, script_call_of
from presence_server.throttle.rule import ALGORITHMS, Algorithm, Rule
from tests.support.properties import examples
from tests.support.redis_server import RedisServer

KEYS = Keys("ps")
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
STEPS = st.lists(
    st.tuples(st.sampled_from(["hit", "hit", "hit", "peek", "refund", "reset", "block"]), st.integers(1, 3)),
    min_size=1,
    max_size=25,
)
MS = 1_000


class Shared:
    """The script on a real server, and how it is asked."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis.from_url(server.url)
        self.client.flushall()
        self.now_us = 0

    def ask(self, verb: str, rules: list[Rule], key: str, cost: int) -> Any:
        """Return what the store says of one decision."""
        (answer,) = self.ask_all([(verb, rules, key, cost)])
        return answer if isinstance(answer, str) else ThrottleRedisStore.verdicts(answer)

    def ask_all(self, asked: list[tuple[str, list[Rule], str, int]]) -> list[Any]:
        batch = Batch(0, 0)
        for verb, rules, key, cost in asked:
            places = [KEYS.throttle(rule.place, key) for rule in rules]
            batch.add(places, [verb, cost, *(rule.row for rule in rules)], print)
        call = script_call_of([batch], KEYS.purge_channel(), "node")
        answered = self.client.execute_command(*call.by_text())  # type: ignore[no-untyped-call]  # redis-py
        said = msgspec.msgpack.decode(answered, type=Answers, strict=False)
        self.now_us = said.now_us
        return list(said.answers)


@pytest.fixture
def shared(empty_server: RedisServer) -> Shared:
    return Shared(empty_server)


@given(rule=st.sampled_from(RULES), steps=STEPS)
@examples(300)
def test_the_script_says_what_the_rules_say(
    shared_server: RedisServer, rule: Rule, steps: list[tuple[str, int]]
) -> None:
    shared = Shared(shared_server)
    pure = MemoryStore(100, lambda: shared.now_us)
    try:
        for verb, number in steps:
            cost = min(number, rule.count)
            (said,) = shared.ask(verb, [rule], "k", number * 3 * MS if verb == "block" else cost)
            match verb:
                case "hit":
                    expected = pure.hit_one(rule, "k", cost)
                case "peek":
                    expected = pure.peek(rule, "k", cost)
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
                assert abs(said.reset_us - expected.reset_us) < 50 * MS
            else:
                assert said == expected, verb
        assert -1 not in [shared.client.pttl(key) for key in shared.client.keys("*")]
    finally:
        shared.client.close()


def test_several_rules_are_charged_together_or_not_at_all(shared: Shared) -> None:
    loose, tight = Rule("loose", "10/1h", "sliding"), Rule("tight", "2/1h")
    for _ in range(5):
        shared.ask("hit", [loose, tight], "k", 1)
    (left,) = shared.ask("peek", [loose], "k", 1)
    assert left.remaining == 8
    refused = shared.ask("hit", [loose, tight], "k", 1)
    assert [verdict.allowed for verdict in refused] == [True, False]


def test_a_key_that_somebody_left_without_a_ttl_is_repaired_at_the_next_hit(shared: Shared) -> None:
    for algorithm in ALGORITHMS:
        rule = Rule(algorithm, "3/1h", algorithm)
        shared.ask("hit", [rule], "k", 1)
        place = KEYS.throttle(rule.place, "k")
        shared.client.persist(place)
        assert shared.client.ttl(place) == -1
        for _ in range(5):
            shared.ask("hit", [rule], "k", 1)
        assert 0 < int(shared.client.ttl(place)) <= 7_200
        assert not shared.ask("hit", [rule], "k", 1)[0].allowed


def test_a_refund_of_what_has_ended_creates_nothing(shared: Shared) -> None:
    for algorithm in ALGORITHMS:
        shared.ask("refund", [Rule(algorithm, "3/1h", algorithm)], "k", 2)
    assert shared.client.dbsize() == 0


def test_a_key_of_another_type_harms_its_own_decision_alone(shared: Shared) -> None:
    rules = [Rule(algorithm, "3/1h", algorithm) for algorithm in ALGORITHMS]
    for rule in rules:
        shared.client.xadd(KEYS.throttle(rule.place, "bad"), {"a": "b"})
        shared.client.expire(KEYS.throttle(rule.place, "bad"), 60)
    asked = [("hit", [rule], key, 1) for rule in rules for key in ("good", "bad", "fine")]
    answers = shared.ask_all(asked)
    assert [isinstance(answer, str) for answer in answers] == [False, True, False] * len(rules)
    shared.client.set(KEYS.throttle("fixed:fixed", "junk"), "not a number", ex=60)
    assert isinstance(shared.ask("hit", [rules[0]], "junk", 1), str)


def test_what_changes_a_key_is_told_to_every_node(shared: Shared) -> None:
    heard = shared.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
    heard.subscribe(KEYS.purge_channel())
    while heard.get_message(timeout=0.2) is not None:
        pass
    rule = Rule("r", "3/1h")
    for verb in ("hit", "peek", "refund", "reset", "block"):
        shared.ask(verb, [rule], verb, 1_000)
    said = [message["data"].decode() for _ in range(3) if (message := heard.get_message(timeout=5))]
    assert said == [KEYS.throttle("fixed:r", verb) for verb in ("refund", "reset", "block")]
    heard.close()
