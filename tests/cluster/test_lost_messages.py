"""Messages that get lost between the store and one node: its rosters end equal all the same."""

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.cluster.company import StartNode, Visitor, agreed, counts, visiting
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["valkey"], indirect=True)]

USERS = [f"user-{i}" for i in range(10)]
STEPS = 20


@pytest.fixture
async def network(store: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(store) as network:
        yield network


class Hungry:
    """Eats every `nth` delta on its way to a node."""

    def __init__(self, nth: int) -> None:
        self.eaten = 0
        self._nth = nth
        self._seen = 0

    def __call__(self, message: bytes) -> bool:
        if b"}:bus" not in message or b"\r\nd" not in message:
            return False
        self._seen += 1
        if self._seen % self._nth:
            return False
        self.eaten += 1
        return True


async def updates(visitors: list[Visitor]) -> None:
    """Have everybody change their state again and again."""

    async def update(visitor: Visitor) -> None:
        for step in range(STEPS):
            await visitor.room.update({"step": step})

    async with anyio.create_task_group() as tasks:
        for visitor in visitors:
            tasks.start_soon(update, visitor)


async def test_rosters_agree_though_deltas_were_lost(start_node: StartNode, network: Proxy) -> None:
    nodes = [await start_node(), await start_node(network.url)]
    async with visiting(nodes, USERS) as visitors:
        await until(agreed(visitors, len(USERS)), counts(visitors))
        hungry = network.eaten = Hungry(2)
        await updates(visitors)
        network.eaten = lambda message: False
        assert hungry.eaten > 0

        def all_told() -> bool:
            """Tell whether a client of the node that missed messages knows everybody's last state."""
            return {state["step"] for _, state, _ in visitors[1].roster.values()} == {STEPS - 1}

        await until(all_told, lambda: visitors[1].roster)
        await until(agreed(visitors, len(USERS)), counts(visitors))


async def test_a_join_is_answered_though_its_own_delta_is_lost(start_node: StartNode, network: Proxy) -> None:
    node, _ = await start_node(network.url), await start_node()
    async with visiting([node], ["ann"]) as (ann,):
        network.eaten = Hungry(1)
        async with visiting([node], ["bob"]) as (bob,):
            network.eaten = lambda message: False
            await until(agreed([ann, bob], 2), counts([ann, bob]))
