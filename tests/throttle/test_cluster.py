"""A limiter on a Cluster: a slot moves, a primary dies; nothing is slow, and nothing is counted twice."""

from collections.abc import Iterator

import anyio
import pytest

from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import slot_of
from tests.cluster.hits import RULE, hitting
from tests.support.tcp_servers import ServerCluster

pytestmark = pytest.mark.anyio
KEYS = [f"key-{n}" for n in range(12)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["redis", "valkey"])
def cluster(request: pytest.FixtureRequest) -> Iterator[ServerCluster]:
    with ServerCluster(request.param) as running:
        yield running


def slot_of_key(key: str) -> int:
    return slot_of(Keys("ps").throttle(RULE.place, key))


async def test_slots_that_move_and_primaries_that_die_make_nothing_slow_and_charge_nothing_twice(
    cluster: ServerCluster,
) -> None:
    async with hitting(cluster.url, KEYS) as hits:
        await hits.counted_again()
        owners = {cluster.owner(slot_of_key(key)).port for key in KEYS}
        assert len(owners) == 3, "the keys are not spread over the Cluster"

        slot = slot_of_key(KEYS[0])
        source = cluster.owner(slot)
        target = next(server for server in cluster.servers[:3] if server is not source)
        await anyio.to_thread.run_sync(cluster.migrate, slot, target)
        await hits.counted_again()
        stored = hits.stored[KEYS[0]]
        assert stored <= await hits.counted(KEYS[0]), "counts did not move with their slot"

        cluster.allow_failover(target)
        target.kill()
        await hits.counted_again()
        await hits.check()
