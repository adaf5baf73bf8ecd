"""The order in which decisions are sent to the store, and when one is given up. No I/O: the time is an argument.

Decisions asked for at about the same time are a batch, and travel in one script call, a flight. At most a few flights
are under way at a time, so that what gathers meanwhile travels together. A decision is answered exactly once: by the
store, or with why not. The store is judged, never this process: only time in which this process looked for replies
counts (`LookedTime`), and a decision that waits its turn behind others counts as waiting for the store only while the
store says nothing.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from presence_server.throttle.batch import (
    BATCH_DECISIONS_MAX,
    CALL_MAX,
    DecisionBatch,
    Deliveries,
    GivenUp,
    StoreVerdicts,
)
from presence_server.throttle.breaker import Breaker

FLIGHTS_MIN: Final = 2
FLIGHTS_MAX: Final = 8
"""Flights under way: two keep the store and this process busy at a time; more only while the store is far away."""
FAR_S: Final = 0.004
"""A round trip of this length is too long to leave rows waiting for the second flight's reply."""
LOOKS: Final = 5
"""The number of checks of what is under way within a deadline."""
BATCH_S: Final = 0.005
"""Time in which decisions become one batch, and are given up together."""
QUEUED_DEADLINES_MAX: Final = 20
"""Deadlines that a decision may wait behind others while the store goes on answering."""
DECISIONS_MAX: Final = FLIGHTS_MAX * BATCH_DECISIONS_MAX
"""Decisions that may wait; one more is decided without the store."""


class LookedTime:
    """Seconds in which this process looked for replies: of a gap between two looks at most `longest_s` count."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._total_s = 0.0
        self._last_s = 0.0

    def note_look(self, now_s: float) -> float:
        """Note a look, right after the loop has polled or when nothing was waited for; return the time now."""
        self._total_s = self.now_s(now_s)
        self._last_s = now_s
        return self._total_s

    def now_s(self, now_s: float) -> float:
        """Return the time, also in the middle of a long turn."""
        return self._total_s + min(now_s - self._last_s, self._longest_s)


class Flight:
    """Batches that travel in one script call."""

    __slots__ = ("batches", "late", "renews", "sent_s")

    def __init__(self, batches: list[DecisionBatch], sent_s: float, *, renews: bool = False) -> None:
        self.batches = batches
        self.sent_s = sent_s
        self.late = False
        self.renews = renews
        """Whether it carries renewals, which have no deadline."""


class FlightDispatcher:
    """Times are in s: `now_s` of any clock that only moves forward."""

    def __init__(self, deadline_s: float) -> None:
        self.breaker = Breaker()
        self.connected = False
        self.unreachable = False
        """Whether the last try to connect failed."""
        self._deadline_s = deadline_s
        self._time = LookedTime(1.25 * deadline_s / LOOKS)
        self.open_batch: DecisionBatch | None = None
        """The batch that the next decision joins, unless it is full."""
        self._queue: deque[DecisionBatch] = deque()
        self._renewals: deque[DecisionBatch] = deque()
        self.flights: deque[Flight] = deque()
        """The flights under way, the oldest first."""
        self._decisions = 0
        """Decisions of batches that are closed and not answered."""
        self._flights_since_renewal = 0
        self._round_trip_s = 0.0
        self._silent_since_s = 0.0
        self._failures_of_silence = 0

    # --- what is asked ---

    @property
    def waiting(self) -> bool:
        """Whether anything is under way or waits to be."""
        return bool(self.flights or self._queue or self._renewals or self.open_batch is not None)

    def new_batch(self, now_s: float) -> DecisionBatch | GivenUp:
        """Return where decisions go now that `open_batch` is full, or not there; or why nothing is tried now."""
        batch = self.open_batch
        if batch is None and not self._tries(now_s):
            return GivenUp.AWAY
        if self._decisions + (batch.decisions if batch is not None else 0) >= DECISIONS_MAX:
            return GivenUp.LATE_SELF
        asked_s = self._time.now_s(now_s) if self.waiting else self._begin_silence(now_s)
        if batch is not None:
            self._close_batch(batch)
        self.open_batch = batch = DecisionBatch(asked_s, now_s)
        return batch

    def queue_renewal(self, batch: DecisionBatch, now_s: float) -> bool:
        """Send something that has no deadline, behind decisions; False where nothing is tried now."""
        if not self.connected or self.breaker.open:
            return False
        if not self.waiting:
            self._begin_silence(now_s)
        self._renewals.append(batch)
        self._decisions += batch.decisions
        return True

    def _tries(self, now_s: float) -> bool:
        """Tell whether to ask the store; where the breaker is open, True begins a probe."""
        if self.connected:
            return self.breaker.allows(now_s)
        return not (self.unreachable or self.breaker.open)

    def _begin_silence(self, now_s: float) -> float:
        """Count from now: time in which nothing was asked is nobody's. Return the time, looked."""
        self._silent_since_s = time_s = self._time.note_look(now_s)
        self._failures_of_silence = 0
        return time_s

    def _close_batch(self, batch: DecisionBatch) -> None:
        self._queue.append(batch)
        self._decisions += batch.decisions
        self.open_batch = None

    # --- what is sent, and what comes back ---

    def take_flight(self, now_s: float) -> Flight | None:
        """Return what is to be sent now, if anything is."""
        batch = self.open_batch
        if not self.connected or (batch is None and not self._queue and not self._renewals):
            return None
        wanted = FLIGHTS_MIN if self._round_trip_s < FAR_S else FLIGHTS_MAX
        if batch is not None and (batch.full or now_s - batch.began_s >= BATCH_S):
            self._close_batch(batch)
        if len(self.flights) >= (FLIGHTS_MAX if self._queue else wanted):
            return None
        if self.open_batch is not None and not self._queue:
            self._close_batch(self.open_batch)
        if self._renewals and (not self._queue or self._flights_since_renewal >= FLIGHTS_MAX):
            self._flights_since_renewal = 0
            flight = Flight([self._renewals.popleft()], self._time.now_s(now_s), renews=True)
        elif self._queue:
            self._flights_since_renewal += 1
            flight = Flight(self._take_batches(), self._time.now_s(now_s))
        else:
            return None
        self.flights.append(flight)
        return flight

    def _take_batches(self) -> list[DecisionBatch]:
        """Return as many batches as fit one call."""
        batches = [self._queue.popleft()]
        rows = len(batches[0].rows)
        while self._queue and rows + len(self._queue[0].rows) <= CALL_MAX:
            batches.append(self._queue.popleft())
            rows += len(batches[-1].rows)
        return batches

    def take_reply(
        self, flight: Flight, answers: Sequence[StoreVerdicts | str] | None, now_s: float
    ) -> Deliveries:
        """Take the reply to a flight: its rows' answers, or None where the store refused to work.

        A late reply is nobody's any more, but shows that the store lives.
        """
        silent_since_s = self._silent_since_s
        time_s = self._begin_silence(now_s)
        self.flights.remove(flight)
        round_trip_s = time_s - max(flight.sent_s, silent_since_s)
        self._round_trip_s += 0.1 * (round_trip_s - self._round_trip_s)
        if answers is None:
            self.breaker.failed(now_s)
            return self._give_up(flight.batches, GivenUp.AWAY)
        if flight.late:
            self.breaker.probe_now()
            return []
        self.breaker.succeeded()
        deliveries: Deliveries = []
        at = 0
        for batch in flight.batches:
            late = now_s - batch.began_s > self._deadline_s and not flight.renews
            said = answers[at : at + len(batch.rows)]
            at += len(batch.rows)
            self._mark_answered(batch)
            deliveries += batch.answer_all(said, late=late)
        return deliveries

    def fail_flight(self, flight: Flight) -> Deliveries:
        """Give up a flight that cannot be sent, or whose reply cannot be read."""
        if flight in self.flights:
            self.flights.remove(flight)
        return self._give_up(flight.batches, GivenUp.AWAY)

    def connect_succeeded(self, now_s: float) -> None:
        """Begin to send."""
        self.connected, self.unreachable = True, False
        self._begin_silence(now_s)
        self.breaker.succeeded()

    def connect_failed(self) -> Deliveries:
        """Give up what waits for a connection, and try nothing until there is one."""
        self.connected, self.unreachable = False, True
        return self._give_up_queue()

    def note_connection_lost(self, now_s: float) -> Deliveries:
        """Give up what was under way, which may have been counted; what has not been sent waits for a connection."""
        self.connected = False
        self._begin_silence(now_s)
        flights, self.flights = self.flights, deque()
        renewals, self._renewals = self._renewals, deque()
        under_way = [batch for flight in flights for batch in flight.batches]
        return self._give_up([*under_way, *renewals], GivenUp.AWAY)

    def give_up_all(self, now_s: float) -> Deliveries:
        """Give up everything."""
        return self.note_connection_lost(now_s) + self._give_up_queue()

    # --- how long it takes ---

    def silence_s(self, now_s: float) -> float:
        """Return how long the store has owed a reply, in looked time."""
        return self._time.now_s(now_s) - self._owed_since_s() if self.flights else 0.0

    def next_look_s(self, now_s: float) -> float:
        """Return how long to wait until the next look."""
        time_s = self._time.now_s(now_s)
        since_s = [flight.sent_s for flight in self.flights if not flight.late][:1]
        since_s += [batch.asked_s for batch in (*[*self._queue][:1], self.open_batch) if batch is not None][
            :1
        ]
        look_s = self._deadline_s / LOOKS
        return max(min([look_s, *(self._deadline_s - (time_s - since) for since in since_s)]), look_s / 10)

    def check_flights(self, now_s: float) -> Deliveries:
        """Look at what is under way, right after the loop has polled; give up what is late."""
        time_s = self._time.note_look(now_s)
        self._count_failures(time_s, now_s)
        deliveries: Deliveries = []
        for flight in self.flights:
            if not flight.late and not flight.renews and time_s - flight.sent_s >= self._deadline_s:
                flight.late = True
                deliveries += self._give_up(flight.batches, GivenUp.LATE_STORE)
        stalled = not self.connected or any(flight.late for flight in self.flights)
        why = GivenUp.LATE_STORE if stalled else GivenUp.LATE_SELF
        patience_s = self._deadline_s * (1 if stalled else QUEUED_DEADLINES_MAX)
        if self.open_batch is not None and time_s - self.open_batch.asked_s >= patience_s:
            self._close_batch(self.open_batch)
        while self._queue and time_s - self._queue[0].asked_s >= patience_s:
            deliveries += self._give_up([self._queue.popleft()], why)
        return deliveries

    def _owed_since_s(self) -> float:
        return max(self.flights[0].sent_s, self._silent_since_s)

    def _count_failures(self, time_s: float, now_s: float) -> None:
        """Count one failure for each deadline in which the store, or the way to it, was silent."""
        if not self.flights and (self.connected or not self.waiting):
            return
        since_s = self._owed_since_s() if self.flights else self._silent_since_s
        while self._failures_of_silence < int((time_s - since_s) / self._deadline_s):
            self._failures_of_silence += 1
            self.breaker.failed(now_s)

    # --- ends ---

    def _mark_answered(self, batch: DecisionBatch) -> None:
        batch.answered = True
        self._decisions -= batch.decisions

    def _give_up(self, batches: Sequence[DecisionBatch], why: GivenUp) -> Deliveries:
        deliveries: Deliveries = []
        for batch in batches:
            if not batch.answered:
                self._mark_answered(batch)
                deliveries += batch.give_up_all(why)
        return deliveries

    def _give_up_queue(self) -> Deliveries:
        if self.open_batch is not None:
            self._close_batch(self.open_batch)
        queue, self._queue = self._queue, deque()
        return self._give_up([*queue], GivenUp.AWAY)
