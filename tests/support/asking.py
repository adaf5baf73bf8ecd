"""A real server, and the pipeline over which its stores are asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.coalescer import Coalescer
from presence_server.redis_io.inquiries import Inquiries
from tests.support.redis_server import RedisServer


class Asking(NamedTuple):
    """The server, what asks it, and the coalescer, whose sources a test may add to."""

    server: RedisServer
    inquiries: Inquiries
    coalescer: Coalescer


@asynccontextmanager
async def asking(kind: str) -> AsyncIterator[Asking]:
    """Start a server of a kind; at the end it must hold no key without a TTL."""
    with RedisServer(kind) as server:
        client = RedisClient(server.url)
        coalescer = Coalescer(client.lane(), 1.0)
        inquiries = Inquiries(coalescer, lambda: False)
        coalescer.sources = [inquiries]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(coalescer.run)
            yield Asking(server, inquiries, coalescer)
            assert server.keys_without_ttl() == []
            tasks.cancel_scope.cancel()
        await client.aclose()
