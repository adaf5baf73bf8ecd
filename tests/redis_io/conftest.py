"""Servers of each kind, and a client of one, for the tests of the Redis connections."""

from collections.abc import AsyncIterator

import pytest

from presence_server.redis_io.client import RedisClient
from tests.support.redis_server import RedisServer


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[RedisClient]:
    client = RedisClient(server.url)
    yield client
    await client.aclose()
