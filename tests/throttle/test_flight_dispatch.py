"""What is sent when, and given up when: on a clock that is moved by hand, in every order of events."""

from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from presence_server.throttle.batch import (
    CALL_MAX,
    DecisionBatch,
    DecisionRow,
    GivenUp,
    LateVerdicts,
    StoreAnswer,
)
from presence_server.throttle.breaker import FAILURES_MAX, LONGEST_S
from presence_server.throttle.flight_dispatch import (
    BATCH_S,
    FLIGHTS_MAX,
    FLIGHTS_MIN,
    Flight,
    FlightDispatcher,
    LookedTime,
)
from presence_server.throttle.rule import RuleRow
from tests.throttle.asker import ADMITTED, DEADLINE_S, REFUSED, ROW, Asker, connected, deliver


def test_time_in_which_this_process_did_not_look_counts_once() -> None:
    time = LookedTime(longest_s=0.0125)
    time.note_look(100)
    assert time.note_look(100.010) - time.now_s(100) < 0.011
    before = time.now_s(100.010)
    assert abs(time.note_look(100.325) - before - 0.0125) < 1e-9, "a pause of 315 ms is one late look"
    assert time.now_s(200) == time.now_s(100.325) + 0.0125, "reading does not look"


def test_a_silent_store_is_given_up_at_the_deadline() -> None:
    asker = connected()
    asker.ask()
    flight = asker.take()
    asker.look_for(DEADLINE_S - 0.001, 0.007)
    assert asker.answers == []
    asker.look_for(0.0011)
    assert asker.answers == [GivenUp.LATE_STORE]
    asker.reply(flight)
    assert asker.answers == [GivenUp.LATE_STORE], "a late reply is discarded"


def test_a_process_that_was_busy_reads_before_it_judges() -> None:
    asker = connected()
    asker.ask()
    flight = asker.take()
    asker.now_s += 0.4
    deliver(asker.dispatcher.check_flights(asker.now_s))
    assert asker.answers == []
    asker.reply(flight)
    assert asker.answers == [ADMITTED]
    assert isinstance(asker.answers[0], LateVerdicts), "it says that this process was late"


def test_who_waits_behind_others_is_not_given_up_while_the_store_answers() -> None:
    asker = connected()
    for n in range(40 * CALL_MAX):
        assert asker.ask(f"k{n}") is None
    flights = deque([asker.take() for _ in range(FLIGHTS_MAX)])
    assert asker.dispatcher.take_flight(asker.now_s) is None
    while flights:
        asker.look_for(DEADLINE_S * 0.1)
        asker.reply(flights.popleft())
        if (flight := asker.dispatcher.take_flight(asker.now_s)) is not None:
            flights.append(flight)
    assert asker.answers == [ADMITTED] * 40 * CALL_MAX, "though it took four deadlines"


def test_a_queue_that_this_process_made_too_long_is_not_the_stores_fault() -> None:
    asker = connected()
    for n in range(230 * CALL_MAX):
        assert asker.ask(f"k{n}") is None
    flights = deque([asker.take() for _ in range(FLIGHTS_MAX)])
    while flights:
        asker.look_for(DEADLINE_S * 0.1)
        asker.reply(flights.popleft())
        if (flight := asker.dispatcher.take_flight(asker.now_s)) is not None:
            flights.append(flight)
    assert {answer for answer in asker.answers if isinstance(answer, GivenUp)} == {GivenUp.LATE_SELF}


def test_nobody_is_given_up_for_the_age_of_those_before() -> None:
    asker = connected()
    for _ in range(FLIGHTS_MAX):
        asker.ask()
        asker.dispatcher.take_flight(asker.now_s)
    late: list[float] = []
    asker.look_for(0.036)
    asked_s = asker.now_s
    asker.ask("young", lambda answer: late.append(asker.now_s))
    asker.dispatcher.take_flight(asker.now_s)
    asker.look_for(0.1, 0.002)
    assert late
    assert late[0] - asked_s >= DEADLINE_S - BATCH_S


def test_equal_hits_travel_as_one_and_are_told_apart() -> None:
    asker = connected()
    for _ in range(1_000):
        asker.ask()
    asker.ask("other")
    flight = asker.take()
    (batch,) = flight.batches
    assert (batch.places, [len(dones) for dones in batch.dones]) == (["k", "other"], [1_000, 1])
    deliver(asker.dispatcher.take_reply(flight, [[3, 2, 9, *REFUSED], ADMITTED], asker.now_s))
    assert asker.answers[:4] == [[1, 4, 0, 9, 0], [1, 3, 0, 9, 0], [1, 2, 0, 9, 0], REFUSED]
    assert asker.answers[3:] == [REFUSED] * 997 + [ADMITTED]


def test_a_hit_after_a_change_of_its_key_comes_after_it() -> None:
    batch = DecisionBatch(0, 0)
    batch.add_hit("k", ROW, print)
    batch.add_decision(["k"], DecisionRow("reset", 1, (ROW,)), print)
    batch.add_hit("k", ROW, print)
    assert [type(row) for row in batch.rows] == [RuleRow, DecisionRow, RuleRow]


def test_one_stall_of_less_than_five_deadlines_does_not_open_the_breaker() -> None:
    asker = connected()
    for n in range(FLIGHTS_MIN):
        asker.ask(f"k{n}")
        assert asker.dispatcher.take_flight(asker.now_s)
    asker.look_for(0.08)
    opened = [asker.dispatcher.breaker.open]
    asker.look_for(FAILURES_MAX * DEADLINE_S)
    assert [*opened, asker.dispatcher.breaker.open] == [False, True]
    assert asker.ask() is GivenUp.AWAY


def test_a_late_reply_shows_that_asking_may_help_again() -> None:
    asker = connected()
    asker.ask()
    flight = asker.take()
    asker.look_for(1.1 * FAILURES_MAX * DEADLINE_S)
    assert asker.ask() is GivenUp.AWAY
    asker.reply(flight)
    assert asker.ask() is None
    asker.reply(asker.take())
    assert asker.answers == [GivenUp.LATE_STORE, ADMITTED]
    assert not asker.dispatcher.breaker.open


def test_who_comes_while_it_connects_waits_no_longer_than_the_deadline() -> None:
    asker = Asker(FlightDispatcher(DEADLINE_S))
    asker.ask()
    asker.look_for(DEADLINE_S + 0.0001)
    assert asker.answers == [GivenUp.LATE_STORE]
    asker.ask()
    asker.dispatcher.connect_succeeded(asker.now_s)
    asker.reply(asker.take())
    assert asker.answers[1:] == [ADMITTED]


def test_a_way_that_was_found_closed_is_not_waited_for() -> None:
    asker = Asker(FlightDispatcher(DEADLINE_S))
    asker.ask()
    deliver(asker.dispatcher.connect_failed())
    assert asker.answers == [GivenUp.AWAY]
    assert asker.ask() is GivenUp.AWAY
    asker.dispatcher.connect_succeeded(asker.now_s)
    assert asker.ask() is None


def test_renewals_go_behind_decisions_and_have_no_deadline() -> None:
    asker = connected()
    told: list[StoreAnswer] = []
    renewal = DecisionBatch(0, asker.now_s)
    renewal.add_decision(["k"], DecisionRow("keep", 1, (ROW,)), told.append)
    assert asker.dispatcher.queue_renewal(renewal, asker.now_s)
    asker.ask()
    decision, renewing = asker.take(), asker.take()
    assert (decision.renews, renewing.renews) == (False, True)
    asker.look_for(4 * DEADLINE_S)
    assert told == []
    asker.reply(decision)
    asker.reply(renewing)
    assert told == [ADMITTED]


def test_renewals_are_not_starved_by_decisions() -> None:
    asker = connected()
    told: list[StoreAnswer] = []
    renewal = DecisionBatch(0, asker.now_s)
    renewal.add_decision(["k"], DecisionRow("keep", 1, (ROW,)), told.append)
    asker.dispatcher.queue_renewal(renewal, asker.now_s)
    for n in range(3 * FLIGHTS_MAX):
        asker.ask(f"k{n}")
        asker.reply(asker.take())
    assert told == [ADMITTED]


class EveryDecisionIsAnsweredOnce(RuleBasedStateMachine):
    """Asks, timers, sends, replies, losses and closing in any order."""

    @initialize()
    def begin(self) -> None:
        self.asker = Asker(FlightDispatcher(DEADLINE_S))
        self.flights: deque[Flight] = deque()
        self.answered: dict[int, int] = {}
        self.renewals = 0

    def asked(self) -> Callable[[Any], None]:
        number = len(self.answered)
        self.answered[number] = 0

        def done(answer: StoreAnswer) -> None:
            self.answered[number] += 1

        return done

    @rule(place=st.sampled_from("abc"), times=st.integers(1, 3))
    def ask(self, place: str, times: int) -> None:
        for _ in range(times):
            done = self.asked()
            if self.asker.ask(place, done) is not None:
                done(GivenUp.AWAY)

    @rule()
    def renew(self) -> None:
        batch = DecisionBatch(0, self.asker.now_s)
        done = self.asked()
        batch.add_decision(["k"], DecisionRow("keep", 1, (ROW,)), done)
        if not self.asker.dispatcher.queue_renewal(batch, self.asker.now_s):
            done(GivenUp.AWAY)

    @rule()
    def send(self) -> None:
        while (flight := self.asker.dispatcher.take_flight(self.asker.now_s)) is not None:
            self.flights.append(flight)
            assert len(self.flights) <= FLIGHTS_MAX

    @precondition(lambda self: self.flights)
    @rule(refused=st.booleans(), at=st.integers(0, 1))
    def reply(self, refused: bool, at: int) -> None:
        flight = self.flights[min(at, len(self.flights) - 1)]
        self.flights.remove(flight)
        dones = [len(dones) for batch in flight.batches for dones in batch.dones]
        said: list[Any] = [ADMITTED if n == 1 else [n - 1, 0, 9, *REFUSED] for n in dones]
        dispatcher = self.asker.dispatcher
        deliver(dispatcher.take_reply(flight, None if refused else said, self.asker.now_s))

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3]), looks=st.booleans())
    def wait(self, seconds: float, looks: bool) -> None:
        self.asker.now_s += seconds
        if looks:
            deliver(self.asker.dispatcher.check_flights(self.asker.now_s))

    @rule()
    def connect(self) -> None:
        if not self.asker.dispatcher.connected:
            self.asker.dispatcher.connect_succeeded(self.asker.now_s)

    @rule(gone=st.booleans())
    def lose(self, gone: bool) -> None:
        self.flights.clear()
        deliver(self.asker.dispatcher.note_connection_lost(self.asker.now_s))
        if gone:
            deliver(self.asker.dispatcher.connect_failed())

    @invariant()
    def nobody_is_told_twice(self) -> None:
        assert all(times <= 1 for times in self.answered.values())

    def is_asked_again(self) -> None:
        """Whatever happened: with a connection and a store that answers, decisions reach it within the longest wait."""
        dispatcher = self.asker.dispatcher
        if not dispatcher.connected:
            dispatcher.connect_succeeded(self.asker.now_s)
        for _ in range(3):
            for flight in (*dispatcher.flights,):
                self.flights.clear()
                dones = [len(dones) for batch in flight.batches for dones in batch.dones]
                said: list[Any] = [ADMITTED if n == 1 else [n - 1, 0, 9, *REFUSED] for n in dones]
                deliver(dispatcher.take_reply(flight, said, self.asker.now_s))
            self.send()
        self.asker.now_s += LONGEST_S
        deliver(dispatcher.check_flights(self.asker.now_s))
        self.asker.now_s += LONGEST_S
        assert self.asker.ask("last", self.asked()) is None

    def teardown(self) -> None:
        self.is_asked_again()
        deliver(self.asker.dispatcher.give_up_all(self.asker.now_s))
        assert all(times == 1 for times in self.answered.values())
        assert not self.asker.dispatcher.waiting
        assert self.asker.dispatcher._decisions == 0


TestEveryDecisionIsAnsweredOnce = EveryDecisionIsAnsweredOnce.TestCase
