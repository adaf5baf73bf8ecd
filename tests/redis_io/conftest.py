"""Servers of each kind, and a client of one, for the tests of the Redis connections."""

from collections.abc import AsyncIterator, Iterator

import pytest

from presence_server.redis_io.client import RedisClient
from tests.support.redis_server import KINDS, RedisServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Start a server for one test, which may kill it."""
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[RedisClient]:
    client = RedisClient(server.url)
    yield client
    await client.aclose()
