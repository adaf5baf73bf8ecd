"""What the tests of failovers share: two nodes on one store of several servers, and how patient they are."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.node import Node

HEARTBEAT_MS: Final = 2_000
PACE: Final = ("--presence.ttl_ms", "6000", "--presence.heartbeat_ms", str(HEARTBEAT_MS))
BUSY_S: Final = 10
"""What a machine with every core busy may add to the promised time."""


@asynccontextmanager
async def two_nodes(url: str, directory: Path, *args: str) -> AsyncIterator[list[Node]]:
    """Start two nodes on the store at `url`, with further `args`."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Node(directory, "--redis.url", url, *PACE, *args))
            for _ in range(2)
        ]
