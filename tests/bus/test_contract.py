"""What every bus does, whatever carries it."""

from collections.abc import Callable

import pytest

from presence_server.bus.memory import MemoryBus

BUSES: dict[str, Callable[[], MemoryBus[int]]] = {"local": MemoryBus}


class Listener:
    """A bus and what it brought."""

    def __init__(self, bus: MemoryBus[int]) -> None:
        self.bus = bus
        self.heard: list[tuple[str, int]] = []

    def subscribe(self, room: str) -> None:
        """Subscribe, and be told so once."""
        told: list[bool] = []
        self.bus.subscribe(room, lambda event: self.heard.append((room, event)), lambda: told.append(True))
        assert told == [True]


@pytest.fixture(params=BUSES)
def listener(request: pytest.FixtureRequest) -> Listener:
    return Listener(BUSES[request.param]())


def test_what_happens_in_a_subscribed_room_is_heard_in_order(listener: Listener) -> None:
    listener.subscribe("lobby")
    for n in range(10):
        listener.bus.publish("lobby", n)
    assert listener.heard == [("lobby", n) for n in range(10)]


def test_what_happens_elsewhere_is_not_heard(listener: Listener) -> None:
    listener.subscribe("lobby")
    listener.bus.publish("other", 1)
    assert listener.heard == []


def test_what_happened_before_is_not_heard(listener: Listener) -> None:
    listener.bus.publish("lobby", 1)
    listener.subscribe("lobby")
    assert listener.heard == []


def test_a_room_is_left_at_once(listener: Listener) -> None:
    listener.subscribe("lobby")
    listener.subscribe("other")
    listener.bus.unsubscribe("lobby")
    listener.bus.publish("lobby", 1)
    listener.bus.publish("other", 2)
    assert listener.heard == [("other", 2)]
    listener.bus.unsubscribe("other")
    listener.bus.unsubscribe("never")
    assert len(listener.bus) == 0


def test_a_room_can_be_taken_up_again(listener: Listener) -> None:
    listener.subscribe("lobby")
    listener.bus.unsubscribe("lobby")
    listener.subscribe("lobby")
    listener.bus.publish("lobby", 1)
    assert listener.heard == [("lobby", 1)]
