"""The script calls that a flight is sent as, and the answers in their replies.

Does no I/O.
"""

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from presence_server.redis_io.scripts import Call, Script, slot_of
from presence_server.throttle.batch import DecisionBatch, DecisionRow, StoreVerdicts
from presence_server.throttle.flight_dispatch import Flight

if TYPE_CHECKING:
    from presence_server.throttle.rule import RuleRow

PARTS: Final = ("rules", "fixed", "sliding", "counter", "bucket", "leases", "slots", "decisions")
SCRIPT: Final = Script("presence_server.throttle", *PARTS)
NOT_RUN: Final = "not run"
"""The answer to a decision whose call the server has refused."""
_encode = msgspec.msgpack.Encoder().encode
_serial = count()
"""A counter; with the random name of the process it makes a text that no other call has."""


class Answers(msgspec.Struct, array_like=True):
    """The reply of the script: its TIME, and for each decision the verdicts, or what is wrong with the key."""

    now_us: int
    answers: list[StoreVerdicts | str]


decode_answers: Final = msgspec.msgpack.Decoder(Answers, strict=False).decode


class FlightCall(NamedTuple):
    """One call of a flight: its decisions, and which they are among all of the flight."""

    batches: Sequence[DecisionBatch]
    numbers: Sequence[int]


def split_by_slot(batches: Sequence[DecisionBatch]) -> list[FlightCall]:
    """Return a call for each slot: a Cluster carries out none with keys of several."""
    calls: dict[int, tuple[DecisionBatch, list[int]]] = {}
    number = 0
    for batch in batches:
        at = 0
        for row, dones in zip(batch.rows, batch.dones, strict=True):
            places = batch.places[at : at + (len(row.rules) if isinstance(row, DecisionRow) else 1)]
            at += len(places)
            slot = slot_of(places[0])
            part, numbers = calls.get(slot) or calls.setdefault(slot, (DecisionBatch(0, 0), []))
            numbers.append(number)
            part.places += places
            part.rows.append(row)
            part.dones.append(dones)
            number += 1
    return [FlightCall([part], numbers) for part, numbers in calls.values()]


class FlightReplies:
    """The replies to the calls of one flight, gathered until none is outstanding."""

    __slots__ = ("answers", "calls", "flight", "is_answered", "outstanding")

    def __init__(self, flight: Flight, *, by_slot: bool) -> None:
        rows = sum(len(batch.rows) for batch in flight.batches)
        self.flight = flight
        self.calls = split_by_slot(flight.batches) if by_slot else [FlightCall(flight.batches, range(rows))]
        self.outstanding = len(self.calls)
        self.is_answered = False
        """Whether one of the calls has run, or was refused for its slot alone."""
        self.answers: list[StoreVerdicts | str] = [NOT_RUN] * rows

    def note_answers(self, call: FlightCall, answers: Sequence[StoreVerdicts | str]) -> None:
        """Take the answers to a call that has run."""
        self.is_answered = True
        self.outstanding -= 1
        for number, answer in zip(call.numbers, answers, strict=True):
            self.answers[number] = answer

    def note_refused(self, *, by_server: bool) -> None:
        """Note that a call was refused, by a server that would refuse others, too, or for its slot alone."""
        self.is_answered |= not by_server
        self.outstanding -= 1


def script_call_of(batches: Sequence[DecisionBatch], purge_channel: str, node: str) -> Call:
    """Return the script call that makes the decisions of batches."""
    places = [place for batch in batches for place in batch.places]
    numbers: dict[RuleRow, int] = {}
    rows: list[Any] = []
    for batch in batches:
        if batch.only_row is not None:
            rows += [numbers.setdefault(batch.only_row, len(numbers) + 1)] * len(batch.rows)
            continue
        for row, dones in zip(batch.rows, batch.dones, strict=True):
            if isinstance(row, DecisionRow):
                cost = row.cost() if callable(row.cost) else row.cost
                rules = [numbers.setdefault(rule, len(numbers) + 1) for rule in row.rules]
                rows.append([row.verb, cost, *rules])
            else:
                number = numbers.get(row) or numbers.setdefault(row, len(numbers) + 1)
                rows.append(number if len(dones) == 1 else (number, len(dones)))
    arguments = (_encode(([*numbers], rows)), f"{node}{next(_serial)}", purge_channel, node)
    # Not by `script_call`: but for a Cluster (`split_by_slot`) a flight has keys of many slots.
    return Call(("EVALSHA", SCRIPT.digest, len(places), *places, *arguments), SCRIPT)
