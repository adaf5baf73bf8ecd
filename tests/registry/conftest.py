"""Registries as fixtures: `subject` is one of each kind, `shared` makes those of several nodes."""

from collections.abc import AsyncIterator
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from presence_server.clock import SystemClock
from presence_server.registry.redis import RedisRegistry
from tests.registry.registries import Shared, Subject, local_registry
from tests.support.asking import asking
from tests.support.handclock import HandClock
from tests.support.redis_server import KINDS, RedisServer


@pytest.fixture
async def shared(server: RedisServer) -> AsyncIterator[Shared]:
    async with asking(server) as asked:
        yield Shared(asked.server, asked.queries)


@pytest.fixture(params=["memory", *KINDS])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        clock = HandClock()
        yield Subject(partial(local_registry, clock), clock, lambda _: anyio.lowlevel.checkpoint())
        return
    with RedisServer(request.param) as server:
        async with asking(server) as asked:
            shared = Shared(asked.server, asked.queries)
            subject = Subject(partial(shared.node, "n1"), SystemClock(), lambda registry: registry.nodes())
            assert isinstance(subject.registry, RedisRegistry)
            await shared.register(subject.registry)
            yield subject
