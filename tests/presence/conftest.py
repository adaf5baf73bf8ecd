from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import redis

from presence_server.bus.memory import MemoryBus
from presence_server.presence.memory import PresenceMemoryStore
from tests.presence.pumped import Pumped, everything_heard
from tests.presence.room import Room
from tests.presence.stored import Stored
from tests.support.handclock import HandClock
from tests.support.operations import CLAIM_MS, TTL_MS
from tests.support.redis_server import KINDS, RedisServer

if TYPE_CHECKING:
    from presence_server.presence.roster import Delta

Adapter = Callable[[], Stored]


@pytest.fixture
def room() -> Room:
    return Room()


def in_memory() -> Stored:
    clock = HandClock()
    bus: MemoryBus[Delta] = MemoryBus()
    store = PresenceMemoryStore(bus, clock, ttl_ms=TTL_MS, claim_ms=CLAIM_MS)
    return Stored(store, bus, clock.move, lambda: len(store))


@pytest.fixture(scope="session", params=["memory", *KINDS])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """What makes a store, empty, of each kind."""
    if request.param == "memory":
        yield in_memory
        return
    with RedisServer(request.param) as server, redis.Redis.from_url(server.url) as client:
        heard = everything_heard(client)

        def on_server() -> Stored:
            pumped = Pumped(client, heard)
            return Stored(pumped, pumped.bus, pumped.move, pumped.rooms_kept)

        yield on_server
        heard.close()


@pytest.fixture
def store(adapter: Adapter) -> Stored:
    """A store of every kind, one after the other."""
    return adapter()
