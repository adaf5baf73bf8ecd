"""Plans that the simulator plays too, with real nodes on real servers: simulator and world must not drift apart."""

from pathlib import Path

import pytest

from tests.cluster.real_world import play_for_real
from tests.simulation.scenarios import SCENARIOS
from tests.support.redis_server import RedisServer

PLAYED = {
    "a node is killed": "redis",
    "a node is frozen for longer than the TTL": "valkey",
    "the store dies and is empty": "redis",
    "FLUSHALL": "valkey",
}
"""Each takes 25 s, so it has one kind of server; the simulator plays all scenarios."""


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "store"), PLAYED.items(), indirect=["store"])
async def test_real_nodes_keep_what_is_promised(name: str, store: RedisServer, tmp_path: Path) -> None:
    assert await play_for_real(SCENARIOS[name], store, tmp_path) == []
