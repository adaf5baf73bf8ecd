"""Slots as parts of the store: each begins as its server is, and has a fate of its own from then on."""

from typing import cast

from presence_server.cluster.connectivity import ClockStepped, Connectivity, Lost, Rejoined, Restored, State
from presence_server.cluster.link import Link
from presence_server.cluster.parts import Concerned, Part, SlotParts
from presence_server.redis_io.scripts import slot_of_tag


class Server:
    """As much of a link as parts need."""

    def __init__(self) -> None:
        connectivity = Connectivity(patience_ms=100, hold_ms=1_000, provisional_ms=5_000)
        self.part = Part(cast("Link", self), connectivity)


A, B = (cast("Link", Server()) for _ in range(2))


def of_room(room: str) -> Link:
    return A if room.startswith("a") else B


def parts_of(*rooms: str) -> SlotParts:
    owners = {slot_of_tag(room): of_room(room) for room in rooms}
    return SlotParts(lambda slot: owners[slot])


def connect(part: Part, *, without_ms: int = 0) -> None:
    part.connectivity.on(Restored(without_ms, same_server=False), 0)
    part.connectivity.on(Rejoined(), 10_000)


def test_a_slot_begins_as_its_server_is_and_changes_alone() -> None:
    parts = parts_of("a1", "a2", "b1")
    connect(A.part)
    first, second = parts.of("a1"), parts.of("a2")
    assert (first.connectivity.state, first.link) == (State.CONNECTED, A)
    assert parts.of("b1").is_isolated
    first.connectivity.on(Lost(), 10_000)
    assert (first.is_isolated, second.is_isolated, A.part.is_isolated) == (True, False, False)
    assert parts.of("a1") is first
    assert parts.with_link(A) == [A.part, first, second]


def test_a_slot_that_is_first_needed_during_a_hold_asks_for_it_too() -> None:
    parts = parts_of("a1")
    connect(A.part)
    A.part.connectivity.on(ClockStepped(), 20_000)
    assert parts.of("a1").connectivity.hold_rest_ms(20_400) == 600


def test_parts_of_which_nothing_follows_are_not_looked_at() -> None:
    parts = parts_of("b1")
    part = parts.of("b1")
    assert list(parts.unresolved) == [part]
    connect(part)
    part.connectivity.pass_time(20_000)
    parts.note(part)
    assert not parts.unresolved
    part.connectivity.on(Lost(), 30_000)
    parts.note(part)
    assert list(parts.unresolved) == [part]


def test_what_is_concerned_is_told_by_its_slot() -> None:
    parts = parts_of("a1", "b1")
    concerned = Concerned([parts.of("a1")], parts.of, whole=True)
    assert (concerned("a1"), concerned("b1")) == (True, False)
