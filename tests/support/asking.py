"""A real server, and the pipeline over which its stores are asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.queries import ServerQueries
from tests.support.redis_server import RedisServer


class Asking(NamedTuple):
    """The server, what asks it, and the batcher, whose sources a test may add to."""

    server: RedisServer
    queries: ServerQueries
    batcher: PipelineBatcher


@asynccontextmanager
async def asking(server: RedisServer) -> AsyncIterator[Asking]:
    """Ask a server; at the end it must hold no key without a TTL."""
    client = RedisClient(server.url)
    batcher = PipelineBatcher(client.lane(), 1.0, lambda: None)
    queries = ServerQueries(batcher, lambda: False, slot_refused=lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        yield Asking(server, queries, batcher)
        assert server.keys_without_ttl() == []
        tasks.cancel_scope.cancel()
    await client.aclose()
