from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.cluster.company import HEARTBEAT_S, TTL_S, StartNode
from tests.support.node import Node
from tests.support.redis_server import KINDS, RedisServer

ARGS = (
    *("--presence.ttl_ms", f"{TTL_S * 1000:.0f}", "--presence.heartbeat_ms", f"{HEARTBEAT_S * 1000:.0f}"),
    *("--presence.grace_lost_ms", "1000", "--presence.grace_clean_ms", "300"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of its own for each test, which must leave no key without a TTL."""
    with RedisServer(request.param) as server:
        yield server
        assert server.ask("DBSIZE") > 0, "the nodes did not use this server"
        assert server.keys_without_ttl() == []


@pytest.fixture
async def start_node(store: RedisServer, tmp_path: Path) -> AsyncIterator[StartNode]:
    """Start one more node of the cluster."""
    async with AsyncExitStack() as stack:

        async def start(
            url: str = "", env: Mapping[str, str] | None = None, args: Sequence[str] = ()
        ) -> Node:
            node = Node(tmp_path, "--redis.url", url or store.url, *ARGS, *args, env=env)
            return await stack.enter_async_context(node)

        yield start
