"""What a batch carries: what its answers tell of keys, and who gets which."""

import asyncio
from functools import partial
from typing import Any

import pytest

from presence_server import faults
from presence_server.throttle.batch import (
    CALL_MAX,
    DecisionBatch,
    DecisionRow,
    GivenUp,
    LateVerdicts,
    Learned,
    StoreVerdicts,
    Verb,
    deliver_answer,
    verdicts_of,
)
from presence_server.throttle.decision import Verdict
from presence_server.throttle.flight_dispatch import BATCH_S, FLIGHTS_MAX
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule
from tests.throttle.asker import ADMITTED, REFUSED, ROW, Asker, connected, deliver

OTHER = row_of(Rule("other", "3/1h"))
LATER = [0, 0, 8, 9, 0]
"""Another refusal."""


def nobody(answer: Any) -> None:
    """Take an answer that nobody looks at."""


def fail(answer: Any) -> None:
    """Take an answer badly."""
    raise ZeroDivisionError


def batch_of(*asked: tuple[list[str], Any]) -> DecisionBatch:
    """Return decisions about places: a rule's row is a single hit."""
    batch = DecisionBatch(0, 0)
    for places, row in asked:
        if isinstance(row, DecisionRow):
            batch.add_decision(places, row, nobody)
        else:
            batch.add_hit(places[0], row, nobody)
    return batch


def learned(answers: list[StoreVerdicts | str], *asked: tuple[list[str], Any]) -> list[Learned]:
    return [*batch_of(*asked).learned(answers)]


def test_of_hits_the_refused_are_learned_with_what_the_store_said() -> None:
    asked = [(["a"], ROW), (["b"], OTHER), (["c"], ROW), (["d"], ROW)]
    said: list[StoreVerdicts | str] = [ADMITTED, REFUSED, "a list", LATER]
    assert learned(said, *asked) == [
        Learned("b", OTHER, 1, REFUSED, given_back=False),
        Learned("d", ROW, 1, LATER, given_back=False),
    ]


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        pytest.param([2, 3, 9], [], id="all admitted"),
        pytest.param([1, 0, 9, *LATER], [LATER], id="some refused"),
        pytest.param([0, 0, 9, *LATER], [LATER], id="all refused"),
    ],
)
def test_of_equal_hits_the_verdict_of_the_refused_is_learned(
    said: list[int], refused: list[StoreVerdicts]
) -> None:
    asked = [(["a"], ROW), (["a"], ROW), (["b"], ROW)]
    expected = [Learned("a", ROW, 1, verdict) for verdict in refused]
    assert learned([said, REFUSED], *asked) == [*expected, Learned("b", ROW, 1, REFUSED)]


def test_of_a_hit_of_several_rules_those_that_refuse_are_learned_with_its_cost() -> None:
    of_several, of_one = DecisionRow("hit", 2, (ROW, OTHER, ROW)), DecisionRow("hit", 3, (ROW,))
    asked = [(["a", "b", "c"], of_several), (["d"], of_one), (["e"], ROW)]
    said: list[StoreVerdicts | str] = [[*REFUSED, *ADMITTED, *LATER], REFUSED, REFUSED]
    assert learned(said, *asked) == [
        Learned("a", ROW, 2, REFUSED),
        Learned("c", ROW, 2, LATER),
        Learned("d", ROW, 3, REFUSED),
        Learned("e", ROW, 1, REFUSED),
    ]


def test_a_refused_take_is_learned_as_the_refusal_of_one() -> None:
    assert learned([REFUSED], (["a"], DecisionRow("take", 50, (ROW,)))) == [Learned("a", ROW, 1, REFUSED)]
    assert learned([ADMITTED], (["a"], DecisionRow("take", 50, (ROW,)))) == []


@pytest.mark.parametrize("verb", ["charge", "refund", "reset", "block"])
def test_a_change_is_learned_whatever_the_store_says_of_the_key_then(verb: Verb) -> None:
    for said in (ADMITTED, REFUSED):
        found = learned([said, REFUSED], (["a"], DecisionRow(verb, 9, (ROW,))), (["b"], ROW))
        assert found == [
            Learned("a", ROW, 0, None, given_back=verb == "refund"),
            Learned("b", ROW, 1, REFUSED),
        ]


@pytest.mark.parametrize("verb", ["peek", "lease", "keep", "acquire", "renew", "release"])
def test_what_only_asks_or_is_held_says_nothing_of_a_key(verb: Verb) -> None:
    for said in (ADMITTED, REFUSED, "a list"):
        assert learned([said], (["a"], DecisionRow(verb, 1, (ROW,)))) == []


def test_of_hits_of_one_rule_only_the_key_with_something_wrong_is_given_up() -> None:
    batch = batch_of((["a"], ROW), (["b"], ROW), (["c"], ROW))
    assert batch.only_row is ROW
    told = [answer for _, answer in batch.answer_all([ADMITTED, "a list", REFUSED], late=False)]
    assert told == [ADMITTED, GivenUp.AWAY, REFUSED]


def test_an_answer_has_a_verdict_for_each_rule() -> None:
    assert verdicts_of([1, 4, 0, 9, 0, 0, 3, 7, 8, 1]) == [
        Verdict(allowed=True, remaining=4, retry_us=0, reset_us=9, blocked=False),
        Verdict(allowed=False, remaining=3, retry_us=7, reset_us=8, blocked=True),
    ]
    assert [type(verdict) for verdict in verdicts_of(ADMITTED)] == [Verdict]


def test_what_is_wrong_with_a_key_is_no_refusal() -> None:
    assert learned(["a list"], (["a"], DecisionRow("hit", 1, (ROW,)))) == []


@pytest.mark.parametrize("row", [ROW, DecisionRow("peek", 1, (ROW,))])
def test_answers_that_are_not_one_for_each_row_are_an_error(row: Any) -> None:
    for answers in ([ADMITTED], [ADMITTED] * 3):
        batch = batch_of((["a"], row), (["b"], row))
        with pytest.raises(ValueError, match="zip"):
            batch.answer_all(answers, late=False)
        with pytest.raises(ValueError, match="zip"):
            [*batch.learned(answers)]


def test_a_key_with_something_wrong_is_decided_without_the_store_and_others_are_not() -> None:
    told: list[tuple[str, Any]] = []
    batch = DecisionBatch(0, 0)
    for name in ("a", "b", "b", "c"):
        batch.add_hit(name, ROW, partial(lambda name, answer: told.append((name, answer)), name))
    deliver(batch.answer_all([ADMITTED, "a list", REFUSED], late=False))
    assert told == [("a", ADMITTED), ("b", GivenUp.AWAY), ("b", GivenUp.AWAY), ("c", REFUSED)]


def test_late_answers_say_so_whatever_they_are_to() -> None:
    for row in (ROW, DecisionRow("peek", 1, (ROW,))):
        answers = [answer for _, answer in batch_of((["a"], row)).answer_all([ADMITTED], late=True)]
        assert answers == [ADMITTED]
        assert isinstance(answers[0], LateVerdicts)


def test_equal_hits_around_another_row_of_their_key_are_not_one() -> None:
    batch = batch_of((["a"], ROW), (["a"], OTHER), (["a"], ROW), (["a"], ROW))
    assert batch.rows == [ROW, OTHER, ROW]
    assert [len(dones) for dones in batch.dones] == [1, 1, 2]
    assert batch.only_row is None


def test_a_batch_of_one_rule_knows_it() -> None:
    assert batch_of((["a"], ROW), (["b"], ROW)).only_row is ROW
    assert batch_of((["a"], ROW), (["b"], OTHER)).only_row is None
    assert batch_of((["a"], ROW), (["a"], ROW)).only_row is None
    assert batch_of((["a"], DecisionRow("peek", 1, (ROW,))), (["b"], ROW), (["c"], ROW)).only_row is None


@pytest.mark.parametrize("row", [ROW, DecisionRow("peek", 1, (ROW,))])
def test_a_batch_is_full_with_as_many_rows_as_a_call_may_have(row: Any) -> None:
    for rows in (CALL_MAX - 1, CALL_MAX):
        assert batch_of(*[([f"k{n}"], row) for n in range(rows)]).full is (rows == CALL_MAX)
    assert CALL_MAX == 100


def waiting_behind_all_flights() -> Asker:
    asker = connected()
    for n in range(FLIGHTS_MAX):
        asker.ask(f"first{n}")
        asker.now_s += 2 * BATCH_S
        asker.take()
    return asker


@pytest.mark.parametrize(
    ("rows", "in_flights"),
    [
        ([50, 50, 1], [2, 1]),
        ([50, 51], [1, 1]),
        ([40, 40, 40], [2, 1]),
        ([60, 20, 20, 20], [3, 1]),
        ([90, 20, 10], [1, 2]),
    ],
)
def test_batches_travel_together_as_long_as_one_call_may_have_them(
    rows: list[int], in_flights: list[int]
) -> None:
    asker = waiting_behind_all_flights()
    for n, number in enumerate(rows):
        for k in range(number):
            asker.ask(f"k{n}-{k}")
        asker.now_s += 2 * BATCH_S
        assert asker.dispatcher.take_flight(asker.now_s) is None
    found = []
    for _ in in_flights:
        asker.reply(asker.dispatcher.flights[0])
        found.append(len(asker.take().batches))
    assert found == in_flights
    assert asker.dispatcher.take_flight(asker.now_s) is None


def test_each_batch_of_a_flight_gets_its_own_answers() -> None:
    asker = waiting_behind_all_flights()
    told: list[tuple[str, Any]] = []
    for n, number in enumerate((1, 3, 2)):
        for k in range(number):
            name = f"{n}-{k}"
            asker.ask(name, partial(lambda name, answer: told.append((name, answer)), name))
        asker.now_s += 2 * BATCH_S
        asker.dispatcher.take_flight(asker.now_s)
    asker.reply(asker.dispatcher.flights[0])
    flight = asker.take()
    deliver(asker.dispatcher.take_reply(flight, [[1, n, 0, 9, 0] for n in range(6)], asker.now_s))
    names = ["0-0", "1-0", "1-1", "1-2", "2-0", "2-1"]
    assert told == [(name, [1, n, 0, 9, 0]) for n, name in enumerate(names)]


# --- who is told ---


def test_who_does_not_wait_any_more_is_no_fault_and_what_fails_is_one() -> None:
    before = faults.counts["limiter"]

    async def cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        deliver_answer(future.set_result, ADMITTED)

    asyncio.run(cancelled())
    assert faults.counts["limiter"] == before
    told: list[Any] = []
    deliver_answer(told.append, ADMITTED)
    deliver_answer(fail, ADMITTED)
    assert (told, faults.counts["limiter"]) == ([ADMITTED], before + 1)


def test_a_decision_says_who_was_late() -> None:
    assert [why.value for why in (GivenUp.LATE_STORE, GivenUp.LATE_SELF, GivenUp.AWAY)] == [
        "store",
        "self",
        "",
    ]
