"""What the script sees to on a real server: its time, its keys, its channel, and what it says of a decision."""

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from presence_server.throttle.batch import DecisionBatch, DecisionRow, GivenUp, Verb, verdicts_of
from presence_server.throttle.decision import Verdict
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import ALGORITHMS, Algorithm, Rule, RuleRow
from tests.support.redis_server import DEADLINE_S, RedisServer
from tests.throttle.shared_script import DAY_US, HOUR_US, KEYS, MS, SECOND_US, Shared

if TYPE_CHECKING:
    from collections.abc import Callable

FIVE = Rule("five", "5/1h")


@pytest.fixture
def shared(empty_server: RedisServer) -> Shared:
    return Shared(empty_server)


def test_hits_that_end_together_are_forgotten_and_no_others(shared: Shared) -> None:
    rule = Rule("r", "5/1h", "sliding")
    begun_us = shared.drawn_us = 1_700_000_000 * SECOND_US
    left = []
    for minutes in (0, 10, 20, 30, 75, 95):
        shared.drawn_us = begun_us + minutes * HOUR_US // 60
        left.append(shared.ask("hit", [rule], "k", 1)[0].remaining)
    assert left == [4, 3, 2, 1, 2, 3]


def test_a_large_cost_is_told_to_wait_until_as_many_hits_have_ended(shared: Shared) -> None:
    rule = Rule("r", "4/1h", "sliding")
    minute_us = HOUR_US // 60
    begun_us = shared.drawn_us = 1_700_000_000 * SECOND_US
    for minutes in (0, 10, 30):
        shared.drawn_us = begun_us + minutes * minute_us
        shared.ask("hit", [rule], "k", 1)
    for cost, minutes in ((2, 30), (3, 40), (4, 60)):
        (refused,) = shared.ask("peek", [rule], "k", cost)
        assert (refused.allowed, refused.retry_us) == (False, minutes * minute_us), cost


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_blocked_says_so_until_it_ends(shared: Shared, algorithm: Algorithm) -> None:
    rule = Rule("r", "3/1h", algorithm)
    for hits in (0, 1):
        for _ in range(hits):
            shared.ask("hit", [rule], f"k{hits}", 1)
        shared.ask("block", [rule], f"k{hits}", 2 * HOUR_US)
        for verb in ("hit", "peek"):
            (said,) = shared.ask(verb, [rule], f"k{hits}", 1)
            assert (said.allowed, said.blocked, said.remaining) == (False, True, 0), (hits, verb)
            assert HOUR_US < said.retry_us <= 2 * HOUR_US


def test_a_block_takes_the_place_of_the_one_before(shared: Shared) -> None:
    shared.drawn_us = 1_700_000_000 * SECOND_US
    rules = [Rule("r", "3/1h", algorithm) for algorithm in ("sliding", "counter", "bucket")]
    for rule in rules:
        for hours in (2, 1):
            shared.ask("block", [rule], "k", hours * HOUR_US)
    for passed_us, allowed in ((HOUR_US - 1, False), (1, True)):
        shared.drawn_us += passed_us
        assert [shared.ask("peek", [rule], "k", 1)[0].allowed for rule in rules] == [allowed] * 3


@pytest.mark.parametrize(("hits", "left"), [(4, 1), (5, 0), (8, 0)])
def test_of_equal_hits_as_many_are_counted_as_fit_and_the_rest_is_refused(
    shared: Shared, hits: int, left: int
) -> None:
    batch = DecisionBatch(0, 0)
    told: list[Any] = []
    for _ in range(hits):
        batch.add_hit("ps:t:{k}:fixed:five", row_of(FIVE), told.append)
    for deliver, answer in batch.answer_all(shared.ask_batch(batch), late=False):
        deliver(answer)
    assert [said[:2] for said in told] == [[1, 4 - n] if n < 5 else [0, 0] for n in range(hits)]
    assert all(0 < said[2] <= HOUR_US for said in told[5:])
    batch = DecisionBatch(0, 0)
    batch.add_decision(["ps:t:{k}:fixed:five"], DecisionRow("peek", 1, (row_of(FIVE),)), print)
    assert verdicts_of(shared.ask_batch(batch)[0])[0].remaining == left


def test_a_slot_that_has_ended_is_not_renewed(shared: Shared) -> None:
    jobs = Rule("jobs", "2/1h", "slots")
    shared.drawn_us = 1_700_000_000 * SECOND_US
    shared.ask("acquire", [jobs], "k", "a")
    shared.drawn_us += HOUR_US - 1
    assert shared.ask("renew", [jobs], "k", "a")[0].allowed
    shared.drawn_us += HOUR_US
    refused = shared.ask("renew", [jobs], "k", "a")
    assert (refused[0].allowed, refused[0].remaining) == (False, 2)


def test_to_look_at_a_bucket_writes_nothing(shared: Shared) -> None:
    rule = Rule("r", "5/1h", "bucket")
    shared.ask("hit", [rule], "k", 1)
    before = shared.client.info("commandstats")["cmdstat_set"]["calls"]
    assert shared.ask("peek", [rule], "k", 1)[0].remaining == 4
    assert shared.client.info("commandstats")["cmdstat_set"]["calls"] == before


def test_a_lease_says_how_many_are_left_and_nothing_of_when(shared: Shared) -> None:
    rule = Rule("held", "3/1h")
    (given,) = shared.ask("lease", [rule], "k", 2)
    (refused,) = shared.ask("lease", [rule], "k", 4)
    assert given == Verdict(True, 1, 0, 0)
    assert refused == Verdict(False, 3, 0, 0)


def test_what_a_node_gives_back_or_holds_too_long_is_free_for_others(shared: Shared) -> None:
    rule = Rule("held", "3/1h")
    shared.drawn_us = 1_700_000_000 * SECOND_US
    shared.ask("lease", [rule], "k", 3)
    for passed_us, left in ((0, 0), (HOUR_US - 1, 0), (1, 3)):
        shared.drawn_us += passed_us
        shared.node = "other"
        (said,) = shared.ask("lease", [rule], "k", 3)
        assert (said.allowed, said.remaining) == (left == 3, 0), passed_us
    assert shared.client.hlen(KEYS.throttle(rule.place, "k")) == 1, "who held it too long is not forgotten"
    for verb, held, left in (("keep", 1, 1), ("keep", 0, 0), ("lease", 1, 1)):
        shared.ask(verb, [rule], "k", held)
        assert shared.client.dbsize() == left, (verb, held)


def test_several_rules_are_charged_together_or_not_at_all(shared: Shared) -> None:
    loose, tight = Rule("loose", "10/1h", "sliding"), Rule("tight", "2/1h")
    for _ in range(5):
        shared.ask("hit", [loose, tight], "k", 1)
    (left,) = shared.ask("peek", [loose], "k", 1)
    assert left.remaining == 8
    refused = shared.ask("hit", [loose, tight], "k", 1)
    assert [verdict.allowed for verdict in refused] == [True, False]


@pytest.mark.parametrize("algorithm", ["sliding", "counter", "bucket"])
def test_of_several_rules_each_says_what_it_says_alone_and_blocks_by_itself(
    shared: Shared, algorithm: Algorithm
) -> None:
    shared.drawn_us = 1_700_000_000 * SECOND_US
    pure = ThrottleMemoryStore(100, lambda: shared.drawn_us, lambda: shared.drawn_us)
    rules = [
        Rule("loose", "9/1h", algorithm),
        Rule("strict", "5/1h", algorithm, block_ms=2 * HOUR_US // MS),
        Rule("short", "6/2s", algorithm, block_ms=1),
    ]
    for cost, passed_us in ((2, 0), (3, SECOND_US), (2, SECOND_US), (1, MS), (3, 0), (1, 3 * HOUR_US)):
        shared.drawn_us += passed_us
        assert shared.ask("hit", rules, "k", cost) == pure.hit(rules, "k", cost), (cost, passed_us)


def test_a_window_of_which_all_was_given_back_begins_with_the_next_hit(shared: Shared) -> None:
    rule = Rule("r", "3/1h")
    shared.ask("hit", [rule], "k", 2)
    shared.ask("refund", [rule], "k", 2)
    shared.client.pexpire(KEYS.throttle(rule.place, "k"), HOUR_US // MS // 2)
    for left in (1, 0):
        (said,) = shared.ask("hit", [rule], "k", 2 if left else 1)
        assert (said.allowed, said.remaining) == (True, left)
        assert HOUR_US - 600 * SECOND_US < said.reset_us <= HOUR_US


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
    assert all(answer.startswith("WRONGTYPE ") for answer in answers[1::3]), "what is wrong is not said"
    shared.client.set(KEYS.throttle("fixed:fixed", "junk"), "junk", ex=60)
    for verb, wrong in (("hit", "not an integer"), ("peek", "not a number")):
        assert wrong in shared.ask(verb, [rules[0]], "junk", 1)


def test_what_changes_a_key_is_told_to_every_node(shared: Shared) -> None:
    heard = shared.client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
    heard.subscribe(KEYS.purge_channel())
    assert heard.get_message(timeout=DEADLINE_S) is not None, "it is not subscribed"
    rule = Rule("r", "3/1h")
    for verb in ("hit", "peek", "charge", "refund", "reset", "block"):
        shared.ask(verb, [rule], verb, 1_000)
    said = [message["data"].decode() for _ in range(3) if (message := heard.get_message(timeout=DEADLINE_S))]
    refunded, *changed = said
    assert refunded == "+" + KEYS.throttle("fixed:r", "refund"), "nothing is lost by it"
    assert changed == [KEYS.throttle("fixed:r", verb) for verb in ("reset", "block")]
    heard.close()


def test_who_leases_hears_how_many_all_nodes_leave(shared: Shared) -> None:
    rule = Rule("leased", "5/1h")
    shared.node = "one"
    assert shared.ask("lease", [rule], "k", 2)[0].remaining == 3
    shared.node = "other"
    assert shared.ask("lease", [rule], "k", 1)[0].remaining == 2
    assert shared.ask("keep", [rule], "k", 2)[0].remaining == 1
    refused = shared.ask("lease", [rule], "k", 4)[0]
    assert (refused.allowed, refused.remaining) == (False, 3)
    shared.node = "third"
    assert shared.ask("lease", [rule], "k", 1)[0].remaining == 0
    assert not shared.ask("lease", [rule], "k", 2)[0].allowed


@pytest.mark.parametrize(
    ("verb", "number", "remaining"), [("charge", 4, 1), ("refund", 1, 1), ("refund", 2, 2)]
)
def test_a_change_answers_whether_one_more_would_be_admitted(
    shared: Shared, verb: str, number: int, remaining: int
) -> None:
    if verb == "refund":
        shared.ask("hit", [FIVE], "k", 5)
    (said,) = shared.ask(verb, [FIVE], "k", number)
    assert (said.allowed, said.remaining) == (True, remaining)


def test_of_equal_hits_one_is_admitted_where_one_is_left(shared: Shared) -> None:
    shared.ask("hit", [FIVE], "k", 4)
    batch, told = DecisionBatch(0, 0), list[Any]()
    for _ in range(2):
        batch.add_hit(KEYS.throttle(FIVE.place, "k"), row_of(FIVE), told.append)
    for deliver, answer in batch.answer_all(shared.ask_batch(batch), late=False):
        deliver(answer)
    assert [verdict.allowed for answer in told for verdict in verdicts_of(answer)] == [True, False]


def test_equal_hits_that_are_refused_hear_when_one_is_admitted(shared: Shared) -> None:
    rule, told = Rule("bucket", "5/1h", "bucket"), list[Any]()
    batch = DecisionBatch(0, 0)
    for _ in range(7):
        batch.add_hit("ps:t:{k}:bucket:r", row_of(rule), told.append)
    for deliver, answer in batch.answer_all(shared.ask_batch(batch), late=False):
        deliver(answer)
    refusals = [verdict for answer in told for verdict in verdicts_of(answer) if not verdict.allowed]
    assert [0 < refusal.retry_us <= HOUR_US // 5 for refusal in refusals] == [True, True]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param([("fives", "a"), ("fives", "b"), ("fives", "c")], id="hits of one rule"),
        pytest.param([("fives", "a"), ("threes", "a"), ("fives", "b")], id="hits of two rules"),
        pytest.param([("fives", "a"), ("fives", "b"), ("fives", "a")], id="equal hits"),
        pytest.param([("threes", "a"), ("peek", "b"), ("threes", "b")], id="hits and another verb"),
        pytest.param([("peek", "b"), ("fives", "a"), ("fives", "b")], id="another verb first"),
        pytest.param([("fives", "a"), ("fives", "wrong"), ("fives", "b")], id="a key that is something else"),
    ],
)
def test_every_hit_of_a_batch_is_counted_by_its_own_rule(
    shared: Shared, asked: list[tuple[str, str]]
) -> None:
    rules = {"fives": Rule("fives", "5/1h"), "threes": Rule("threes", "3/1h")}
    shared.client.lpush("fives:wrong", "a list")
    shared.client.expire("fives:wrong", 60)
    batch = DecisionBatch(0, 0)
    told: list[tuple[str, Any]] = []
    for name, key in asked:
        done: Callable[[Any], None] = partial(lambda name, answer: told.append((name, answer)), name)
        if name == "peek":
            batch.add_decision([f"fives:{key}"], DecisionRow("peek", 1, (row_of(rules["fives"]),)), done)
        else:
            batch.add_hit(f"{name}:{key}", row_of(rules[name]), done)
    for deliver, answer in batch.answer_all(shared.ask_batch(batch), late=False):
        deliver(answer)
    counted: Counter[tuple[str, str]] = Counter()
    expected = []
    for name, key in asked:
        limit = 3 if name == "threes" else 5
        counted[name, key] += name != "peek"
        expected.append((name, None if key == "wrong" else limit - counted[name, key]))
    found = [(name, None if isinstance(answer, GivenUp) else answer[1]) for name, answer in told]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def hit_by(shared: Shared, boundaries: tuple[int, int, int], verb: Verb = "hit") -> Verdict:
    """Hit a quota of 2 a day whose node takes these for the boundaries of its period."""
    row = RuleRow("fixed", 2, DAY_US, DAY_US / 2, 0, boundaries)
    batch = DecisionBatch(0, 0)
    batch.add_decision(["ps:t:{k}:fixed:quota"], DecisionRow(verb, 1, (row,)), print)
    (answer,) = shared.ask_batch(batch)
    return verdicts_of(answer)[0]


@pytest.mark.parametrize(
    ("offsets", "left"),
    [
        pytest.param((-5, 19, 43), 19, id="a node whose clock is right"),
        pytest.param((3, 27, 51), 3, id="a node whose clock is ahead"),
        pytest.param((-30, -6, 18), 18, id="a node whose clock is behind"),
        pytest.param((-100, -76, -52), 20, id="a node whose clock is days behind"),
    ],
)
def test_a_period_ends_by_the_stores_clock(shared: Shared, offsets: tuple[int, ...], left: int) -> None:
    shared.ask("peek", [FIVE], "k", 1)
    first, second, third = (shared.now_us + hours * HOUR_US for hours in offsets)
    verdict = hit_by(shared, (first, second, third))
    assert (verdict.allowed, verdict.remaining) == (True, 1)
    assert 0 <= left * HOUR_US - verdict.reset_us < 60 * SECOND_US


def test_a_quota_is_whole_again_in_the_next_period(shared: Shared) -> None:
    shared.ask("peek", [FIVE], "k", 1)
    begin = shared.now_us
    boundaries = (begin - DAY_US, begin + SECOND_US, begin + DAY_US)
    admitted = [hit_by(shared, boundaries).allowed for _ in range(4)]
    assert sum(admitted) >= 2
    deadline = time.monotonic() + 20
    while not hit_by(shared, boundaries).allowed or shared.now_us < boundaries[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert hit_by(shared, boundaries).reset_us > DAY_US - 60 * SECOND_US
    assert not hit_by(shared, boundaries).allowed


def test_a_shorter_window_takes_effect_at_once_but_ends_no_block(shared: Shared) -> None:
    long, short = Rule("r", "3/1h"), Rule("r", "3/50ms")
    for _ in range(3):
        shared.ask("hit", [long], "k", 1)
        shared.ask("block", [long], "blocked", 3_600 * SECOND_US)
    assert shared.ask("peek", [short], "k", 1)[0].retry_us <= 50 * MS
    assert shared.ask("peek", [short], "blocked", 1)[0].retry_us > 3_000 * SECOND_US
    deadline = time.monotonic() + 20
    while not shared.ask("hit", [short], "k", 1)[0].allowed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_counter_of_another_window_counts_by_itself(shared: Shared) -> None:
    slow, fast = Rule("r", "5/1h", "counter"), Rule("r", "5/10ms", "counter")
    admitted = 0
    for _ in range(100):
        admitted += shared.ask("hit", [slow], "k", 1)[0].allowed
        shared.ask("hit", [fast], "k", 1)
    assert admitted == 5


def test_a_refusal_of_a_full_log_costs_the_store_little(shared: Shared) -> None:
    def commands() -> int:
        return sum(int(stats["calls"]) for stats in shared.client.info("commandstats").values())

    rule = Rule("full", "10000/1h", "sliding")
    for _ in range(100):
        shared.ask_all([("hit", [rule], "k", 2)] * 50)
    before = commands()
    for cost in (1, 2, 100, 9_999):
        (refused,) = shared.ask("hit", [rule], "k", cost)
        assert not refused.allowed
    assert commands() - before < 4 * 40


@pytest.mark.parametrize("algorithm", ["fixed", "bucket"])
def test_as_many_as_there_are_can_be_taken(shared: Shared, algorithm: Algorithm) -> None:
    rule = Rule("r", "10/1h", algorithm)
    takes = [shared.ask_all([("take", [rule], "k", wanted)])[0] for wanted in (4, 4, 4, 4)]
    assert [said[:2] for said in takes] == [[4, 6], [4, 2], [2, 0], [0, 0]]
    assert takes[0][2] == takes[1][2] == 0
    least = 3_600 if algorithm == "fixed" else 360
    assert all((least - 60) * SECOND_US < said[2] <= least * SECOND_US for said in takes[2:])
    strict = Rule("strict", "10/1h", algorithm, block_ms=7_200_000)
    for wanted in (10, 1):
        said = shared.ask_all([("take", [strict], "k", wanted)])[0]
    assert said[0] == 0
    assert said[2] == 7_200 * SECOND_US
