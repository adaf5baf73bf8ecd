from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.cluster.company import PATIENT, StartNode
from tests.support.node import Node
from tests.support.redis_server import KINDS, RedisServer

GRACE = ("--presence.grace_lost_ms", "1000", "--presence.grace_clean_ms", "300")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of its own for each test, which must leave no key without a TTL."""
    with RedisServer(request.param) as server:
        yield server
        assert server.ask("DBSIZE") > 0, "the nodes did not use this server"
        assert server.keys_without_ttl() == []


@pytest.fixture
def pace() -> Sequence[str]:
    """Leases and heartbeats of nodes; tests that wait for the end of a lease have others."""
    return PATIENT


@pytest.fixture
async def start_node(store: RedisServer, pace: Sequence[str], tmp_path: Path) -> AsyncIterator[StartNode]:
    """Start one more node of the cluster."""
    async with AsyncExitStack() as stack:

        async def start(
            url: str = "", env: Mapping[str, str] | None = None, args: Sequence[str] = ()
        ) -> Node:
            node = Node(tmp_path, "--redis.url", url or store.url, *pace, *GRACE, *args, env=env)
            return await stack.enter_async_context(node)

        yield start
