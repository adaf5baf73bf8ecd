from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from presence_server.bus.local import LocalBus
from presence_server.presence.memory import MemoryStore
from tests.presence.room import Room
from tests.presence.stored import Stored
from tests.support.handclock import HandClock
from tests.support.operations import TTL_MS

if TYPE_CHECKING:
    from presence_server.presence.roster import Delta


@pytest.fixture
def room() -> Room:
    return Room()


def in_memory() -> Stored:
    clock = HandClock()
    bus: LocalBus[Delta] = LocalBus()
    store = MemoryStore(bus, clock, ttl_ms=TTL_MS, claim_ms=1_000_000)
    return Stored(store, bus, clock.move, lambda: len(store))


ADAPTERS: dict[str, Callable[[], Stored]] = {"memory": in_memory}


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest) -> Stored:
    """Every adapter of the port, one after the other."""
    return ADAPTERS[request.param]()
