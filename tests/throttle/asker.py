"""Someone who asks a dispatcher, on a clock that is moved by hand."""

from collections.abc import Callable
from typing import Any

from presence_server.throttle.batch import Deliveries, GivenUp, StoreAnswer
from presence_server.throttle.flight_dispatch import Flight, FlightDispatcher
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule

DEADLINE_S = 0.05
ROW = row_of(Rule("r", "5/1h"))
ADMITTED = [1, 4, 0, 9, 0]
REFUSED = [0, 0, 7, 9, 0]


class Asker:
    """Someone who asks a dispatcher, and keeps what is answered."""

    def __init__(self, dispatcher: FlightDispatcher) -> None:
        self.dispatcher = dispatcher
        self.now_s = 1_000.0
        self.answers: list[StoreAnswer] = []

    def ask(self, place: str = "k", done: Callable[[Any], None] | None = None) -> GivenUp | None:
        open_batch = self.dispatcher.open_batch
        batch = open_batch if open_batch and not open_batch.full else self.dispatcher.new_batch(self.now_s)
        if isinstance(batch, GivenUp):
            return batch
        batch.add_hit(place, ROW, self.answers.append if done is None else done)
        return None

    def take(self) -> Flight:
        flight = self.dispatcher.take_flight(self.now_s)
        assert flight is not None
        return flight

    def reply(self, flight: Flight, said: list[int] | None = None) -> None:
        rows = sum(len(batch.rows) for batch in flight.batches)
        deliver(self.dispatcher.take_reply(flight, [said or ADMITTED] * rows, self.now_s))

    def look_for(self, seconds: float, step_s: float = 0.01) -> None:
        """Let time pass in which this process looks for replies."""
        until_s = self.now_s + seconds
        while self.now_s < until_s - 1e-9:
            self.now_s = min(self.now_s + step_s, until_s)
            deliver(self.dispatcher.check_flights(self.now_s))


def deliver(deliveries: Deliveries) -> None:
    for done, answer in deliveries:
        done(answer)


def connected(deadline_s: float = DEADLINE_S) -> Asker:
    """Return one whose dispatcher has a connection."""
    asker = Asker(FlightDispatcher(deadline_s))
    asker.dispatcher.connect_succeeded(asker.now_s)
    return asker
