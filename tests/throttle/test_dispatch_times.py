"""When a dispatcher gives up, looks again, holds the store for silent, and sends: to the moment."""

from typing import Any

import pytest

from presence_server.throttle.batch import DecisionBatch, DecisionRow, GivenUp, LateVerdicts
from presence_server.throttle.breaker import FAILURES_MAX
from presence_server.throttle.flight_dispatch import (
    BATCH_S,
    FAR_S,
    FLIGHTS_MAX,
    FLIGHTS_MIN,
    LOOKS,
    QUEUED_DEADLINES_MAX,
    FlightDispatcher,
)
from tests.throttle.asker import ADMITTED, ROW, Asker, connected, deliver

STEP_S = 0.125
"""Sums of it are exact."""


def looking(asker: Asker, seconds: float) -> None:
    asker.look_for(seconds, STEP_S)


def renewal(asker: Asker) -> DecisionBatch:
    batch = DecisionBatch(0, asker.now_s)
    batch.add_decision(["k"], DecisionRow("keep", 1, (ROW,)), asker.answers.append)
    return batch


def test_a_flight_is_late_at_its_deadline() -> None:
    asker = connected(1.0)
    asker.ask()
    asker.take()
    looking(asker, 0.875)
    assert asker.answers == []
    looking(asker, 0.125)
    assert asker.answers == [GivenUp.LATE_STORE]
    looking(asker, 2)
    assert asker.answers == [GivenUp.LATE_STORE]


def test_who_waits_for_a_connection_is_late_at_the_deadline_and_who_came_later_is_later() -> None:
    asker = Asker(FlightDispatcher(1.0))
    asker.ask("first")
    looking(asker, 0.5)
    asker.dispatcher.new_batch(asker.now_s)
    asker.ask("second")
    looking(asker, 0.375)
    assert asker.answers == []
    looking(asker, 0.125)
    assert asker.answers == [GivenUp.LATE_STORE]
    looking(asker, 0.375)
    assert len(asker.answers) == 1
    looking(asker, 0.125)
    assert asker.answers == [GivenUp.LATE_STORE] * 2


def test_who_waits_behind_a_store_that_answers_is_given_up_after_many_deadlines_and_not_before() -> None:
    asker = connected(1.0)
    for n in range(100 * (3 * QUEUED_DEADLINES_MAX)):
        asker.ask(f"k{n}")
    begin_s = asker.now_s
    asker.take()
    while GivenUp.LATE_SELF not in asker.answers:
        assert asker.now_s < begin_s + QUEUED_DEADLINES_MAX
        looking(asker, 4 * STEP_S)
        asker.reply(asker.dispatcher.flights[0])
        asker.dispatcher.take_flight(asker.now_s)
    assert asker.now_s == begin_s + QUEUED_DEADLINES_MAX
    assert GivenUp.LATE_STORE not in asker.answers


def test_an_answer_read_after_the_deadline_is_late_and_one_at_the_deadline_is_not() -> None:
    for waits_s, late in ((1.0, False), (1.125, True)):
        asker = connected(1.0)
        asker.ask()
        flight = asker.take()
        asker.now_s += waits_s
        asker.reply(flight)
        assert isinstance(asker.answers[0], LateVerdicts) is late


def test_a_renewal_is_never_late() -> None:
    asker = connected(1.0)
    assert asker.dispatcher.queue_renewal(renewal(asker), asker.now_s)
    flight = asker.take()
    asker.now_s += 100
    asker.reply(flight)
    assert asker.answers == [ADMITTED]
    assert not isinstance(asker.answers[0], LateVerdicts)


# --- looking ---


def test_the_next_look_is_soon_enough_for_the_oldest_that_waits() -> None:
    asker = connected(1.0)
    look_s = 1.0 / LOOKS
    assert asker.dispatcher.next_look_s(asker.now_s) == look_s
    asker.ask()
    flight = asker.take()
    looking(asker, 0.75)
    assert asker.dispatcher.next_look_s(asker.now_s) == look_s
    looking(asker, 0.125)
    assert asker.dispatcher.next_look_s(asker.now_s) == 0.125
    asker.ask("younger")
    assert asker.dispatcher.next_look_s(asker.now_s) == 0.125
    looking(asker, 0.0625)
    assert asker.dispatcher.next_look_s(asker.now_s) == 0.0625
    looking(asker, 0.06)
    assert asker.dispatcher.next_look_s(asker.now_s) == pytest.approx(look_s / 10)
    looking(asker, 0.0025)
    assert flight.late
    assert asker.dispatcher.next_look_s(asker.now_s) == look_s, "for the younger"


def test_the_next_look_is_soon_enough_for_who_has_not_been_sent() -> None:
    for closed in (False, True):
        asker = Asker(FlightDispatcher(1.0))
        asker.ask()
        looking(asker, 0.875)
        if closed:
            asker.dispatcher.new_batch(asker.now_s)
        assert asker.dispatcher.next_look_s(asker.now_s) == 0.125


# --- silence ---


def test_silence_is_how_long_a_reply_has_been_owed() -> None:
    asker = connected(1.0)
    looking(asker, 5)
    assert asker.dispatcher.silence_s(asker.now_s) == 0
    asker.ask("a")
    first = asker.take()
    looking(asker, 0.25)
    asker.ask("b")
    asker.take()
    looking(asker, 0.5)
    assert asker.dispatcher.silence_s(asker.now_s) == 0.75
    asker.reply(first)
    assert asker.dispatcher.silence_s(asker.now_s) == 0
    looking(asker, 0.25)
    assert asker.dispatcher.silence_s(asker.now_s) == 0.25


def test_each_deadline_of_silence_is_a_failure_also_after_a_reply() -> None:
    asker = connected(1.0)
    asker.ask("a")
    flight = asker.take()
    looking(asker, FAILURES_MAX - STEP_S)
    assert not asker.dispatcher.breaker.open
    asker.ask("b")
    asker.reply(flight)
    deliver(asker.dispatcher.take_reply(asker.take(), [ADMITTED], asker.now_s))
    asker.ask("c")
    asker.take()
    looking(asker, FAILURES_MAX - STEP_S)
    assert not asker.dispatcher.breaker.open
    looking(asker, STEP_S)
    assert asker.dispatcher.breaker.open


def test_a_loss_begins_the_silence_anew() -> None:
    asker = connected(1.0)
    asker.ask()
    asker.take()
    looking(asker, 2.5)
    deliver(asker.dispatcher.note_connection_lost(asker.now_s))
    assert asker.ask() is None
    looking(asker, 0.75)
    asker.ask()
    looking(asker, 1.75)
    assert not asker.dispatcher.breaker.open, "twice two deadlines and a half are four failures"


def test_while_nothing_is_asked_nothing_is_owed() -> None:
    asker = connected(1.0)
    looking(asker, 20)
    asker.ask()
    asker.take()
    looking(asker, 0.125)
    assert not asker.dispatcher.breaker.open
    asker = Asker(FlightDispatcher(1.0))
    looking(asker, 20)
    asker.ask()
    looking(asker, 0.125)
    assert not asker.dispatcher.breaker.open


def test_a_store_that_refuses_to_work_is_not_asked_for_a_while() -> None:
    asker = connected()
    for _ in range(FAILURES_MAX):
        assert asker.ask() is None
        deliver(asker.dispatcher.take_reply(asker.take(), None, asker.now_s))
    assert asker.answers == [GivenUp.AWAY] * FAILURES_MAX
    assert asker.ask() is GivenUp.AWAY


def test_one_answer_ends_a_row_of_failures() -> None:
    asker = connected()
    for n in range(3 * FAILURES_MAX):
        assert asker.ask() is None
        said = [ADMITTED] if n % (FAILURES_MAX - 1) == 0 else None
        deliver(asker.dispatcher.take_reply(asker.take(), said, asker.now_s))
    assert not asker.dispatcher.breaker.open


# --- sending ---


def sent_at_once(asker: Asker) -> int:
    """Return for how many decisions, asked one by one, a flight leaves at once."""
    flights = 0
    for n in range(FLIGHTS_MAX + 1):
        asker.ask(f"k{n}")
        flights += asker.dispatcher.take_flight(asker.now_s) is not None
    return flights


def test_near_the_store_few_calls_are_under_way_and_far_from_it_more() -> None:
    near, far = connected(1.0), connected(1.0)
    for asker, way_s in ((near, 0.75 * FAR_S), (far, 5 * FAR_S)):
        for _ in range(100):
            asker.ask()
            flight = asker.take()
            asker.look_for(way_s, way_s)
            asker.reply(flight)
    assert (sent_at_once(near), sent_at_once(far)) == (FLIGHTS_MIN, FLIGHTS_MAX)


def test_a_round_trip_is_from_the_reply_before_where_that_came_later() -> None:
    """Flights that wait for each other at the store do not make it far away."""
    asker = connected(1.0)
    for _ in range(30):
        flights = []
        for n in range(FLIGHTS_MIN):
            asker.ask(f"k{n}")
            flights.append(asker.take())
        for flight in flights:
            asker.look_for(0.75 * FAR_S, 0.75 * FAR_S)
            asker.reply(flight)
    assert sent_at_once(asker) == FLIGHTS_MIN


def test_a_batch_leaves_beside_others_when_it_is_old_enough_or_full() -> None:
    asker = connected(1.0)
    assert sent_at_once(asker) == FLIGHTS_MIN
    asker.now_s += 0.9 * BATCH_S
    assert asker.dispatcher.take_flight(asker.now_s) is None
    asker.now_s += 0.2 * BATCH_S
    assert asker.dispatcher.take_flight(asker.now_s) is not None
    for n in range(100):
        assert asker.dispatcher.take_flight(asker.now_s) is None
        asker.ask(f"other{n}")
    assert asker.dispatcher.take_flight(asker.now_s) is not None


def test_a_renewal_goes_after_as_many_calls_with_decisions_as_may_be_under_way() -> None:
    asker = connected(1.0)
    for n in range(100 * (FLIGHTS_MAX + 5)):
        asker.ask(f"k{n}")
    for _ in range(2):
        assert asker.dispatcher.queue_renewal(renewal(asker), asker.now_s)
    renews = []
    for _ in range(FLIGHTS_MAX + 3):
        flight = asker.take()
        renews.append(flight.renews)
        deliver(asker.dispatcher.take_reply(flight, [ADMITTED] * (1 if flight.renews else 100), asker.now_s))
    assert renews == [False] * FLIGHTS_MAX + [True] + [False] * 2


def test_nothing_is_renewed_where_nothing_is_tried() -> None:
    asker = Asker(FlightDispatcher(1.0))
    assert not asker.dispatcher.queue_renewal(renewal(asker), asker.now_s)
    asker = connected(1.0)
    for _ in range(FAILURES_MAX):
        asker.dispatcher.breaker.failed(asker.now_s)
    assert not asker.dispatcher.queue_renewal(renewal(asker), asker.now_s)
    assert not asker.dispatcher.waiting


def test_a_loss_gives_up_renewals_and_what_is_under_way_and_keeps_what_was_not_sent() -> None:
    asker = connected(1.0)
    told: dict[str, Any] = {}
    asker.ask("sent", lambda answer: told.update(sent=answer))
    asker.take()
    asker.dispatcher.queue_renewal(renewal(asker), asker.now_s)
    asker.ask("waits", lambda answer: told.update(waits=answer))
    deliver(asker.dispatcher.note_connection_lost(asker.now_s))
    assert (told, asker.answers) == ({"sent": GivenUp.AWAY}, [GivenUp.AWAY])
    assert not asker.dispatcher.flights
    assert asker.dispatcher.take_flight(asker.now_s) is None
    asker.dispatcher.connect_succeeded(asker.now_s)
    asker.reply(asker.take())
    assert told["waits"] == ADMITTED


def test_a_flight_that_cannot_be_sent_is_given_up_alone_and_once() -> None:
    asker = connected(1.0)
    asker.ask("wrong")
    wrong = asker.take()
    told: list[Any] = []
    asker.ask("right", told.append)
    right = asker.take()
    for _ in range(2):
        deliver(asker.dispatcher.fail_flight(wrong))
    assert asker.answers == [GivenUp.AWAY]
    assert [*asker.dispatcher.flights] == [right]
    asker.reply(right)
    assert told == [ADMITTED]


# --- bounds ---


@pytest.mark.parametrize("kind", ["hits", "equal hits", "other decisions"])
def test_as_many_decisions_wait_as_may_and_one_more_does_not(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("presence_server.throttle.flight_dispatch.DECISIONS_MAX", 800)
    monkeypatch.setattr("presence_server.throttle.batch.BATCH_DECISIONS_MAX", 100)
    asker = connected(1.0)
    told: list[Any] = []

    def ask(n: int) -> GivenUp | None:
        if kind != "other decisions":
            return asker.ask("k" if kind == "equal hits" else f"k{n}", told.append)
        batch = asker.dispatcher.open_batch
        if batch is None or batch.full:
            found = asker.dispatcher.new_batch(asker.now_s)
            if isinstance(found, GivenUp):
                return found
            batch = found
        batch.add_decision([f"k{n}"], DecisionRow("peek", 1, (ROW,)), told.append)
        return None

    for n in range(800):
        assert ask(n) is None
    assert ask(800) is GivenUp.LATE_SELF
    flight = asker.take()
    rows = [[len(dones) for dones in batch.dones] for batch in flight.batches]
    said: list[Any] = [ADMITTED if n == 1 else [n, 9, 9] for batch in rows for n in batch]
    deliver(asker.dispatcher.take_reply(flight, said, asker.now_s))
    answered = len(told)
    assert answered == (800 if kind == "equal hits" else 100)
    for n in range(answered):
        assert ask(900 + n) is None
    assert ask(2_000) is GivenUp.LATE_SELF
    deliver(asker.dispatcher.give_up_all(asker.now_s))
    assert told[answered:] == [GivenUp.AWAY] * 800
    assert not asker.dispatcher.waiting
