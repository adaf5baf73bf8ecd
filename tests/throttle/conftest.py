from collections.abc import Iterator

import pytest

from tests.support.redis_server import KINDS, RedisServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=KINDS)
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that tests do not break."""
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture
def empty_server(shared_server: RedisServer) -> Iterator[RedisServer]:
    """The same, empty; no test may leave a key in it without a TTL."""
    shared_server.ask("FLUSHALL")
    yield shared_server
    assert shared_server.keys_without_ttl() == []


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of the test's own, to be broken."""
    with RedisServer(request.param) as running:
        yield running
