"""The network between nodes and their store fails: cut, hanging, or for messages alone."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from presence_server.client import Joined, Left, Synced
from tests.cluster.company import QUICK, TTL_S, StartNode, Visitor, agreed, counts, settled, visiting
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", ["valkey"], indirect=True),
    pytest.mark.parametrize("pace", [QUICK], ids=["quick"]),
]

USERS = [f"user-{i}" for i in range(12)]
Fault = Callable[[Proxy], None]


@pytest.fixture
async def networks(store: RedisServer) -> AsyncIterator[list[Proxy]]:
    """A network for each of three nodes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Proxy(store)) for _ in range(3)]


@asynccontextmanager
async def company(
    start_node: StartNode, networks: list[Proxy]
) -> AsyncIterator[tuple[list[Node], list[Visitor]]]:
    """Let users in on a node of each network; what happens from now on are their events."""
    nodes = [await start_node(network.url) for network in networks]
    async with visiting(nodes, USERS) as visitors:
        await until(settled(visitors, len(USERS)), counts(visitors))
        for visitor in visitors:
            visitor.forget_events()
        yield nodes, visitors


def all_stale(visitors: list[Visitor]) -> Callable[[], bool]:
    """Return whether all have been told that others may be out of date, as a condition."""
    return lambda: all(visitor.room.stale for visitor in visitors)


async def healed(visitors: list[Visitor], number: int) -> None:
    """Wait until all is well again, and see that it stays so."""
    await until(settled(visitors, number), counts(visitors))
    await anyio.sleep(TTL_S + 1)
    assert agreed(visitors, number)(), counts(visitors)()


@pytest.mark.parametrize(
    ("fault", "away_s"),
    [(Proxy.cut, 0.0), (Proxy.hang, TTL_S + 1), (Proxy.cut_subscribers, TTL_S + 1)],
    ids=["cut", "hanging", "deaf"],
)
async def test_of_isolated_nodes_everybody_hears_who_came_and_who_left_and_nothing_else(
    start_node: StartNode, networks: list[Proxy], fault: Fault, away_s: float
) -> None:
    async with company(start_node, networks) as (nodes, visitors):
        for network in networks:
            fault(network)
        await until(all_stale(visitors), counts(visitors))
        leaver, *others = visitors
        late = ["late-0", "late-1", "late-2"]
        async with visiting(nodes, late) as newcomers:
            await leaver.room.leave()
            await others[0].room.update({"alone": True})
            await anyio.sleep(away_s)
            for network in networks:
                network.heal()
            everybody = [*others, *newcomers]
            await healed(everybody, len(USERS) - 1 + len(late))
            cid = others[0].client.cid
            await until(lambda: all(v.room.members[cid].state == {"alone": True} for v in everybody))
            for visitor in others:
                assert [event.member.cid for event in visitor.all(Left)] == [leaver.client.cid]
                assert sorted(event.member.user for event in visitor.all(Joined)) == late
                assert visitor.all(Synced) == []


async def test_one_node_cut_off_for_longer_than_the_ttl_is_dead_to_the_others_and_comes_back(
    start_node: StartNode, networks: list[Proxy]
) -> None:
    nodes = [await start_node(network.url) for network in networks]
    async with visiting(nodes[:1], ["ann", "bob", "cem"]) as here, visiting(nodes[1:], USERS) as there:
        everybody = [*here, *there]
        await until(settled(everybody, len(everybody)), counts(everybody))
        for visitor in everybody:
            visitor.forget_events()
        networks[0].cut()
        await until(agreed(there, len(there)), counts(there))
        await until(all_stale(here), counts(here))
        assert agreed(here, len(everybody))(), "an isolated node judges nobody"
        networks[0].heal()
        await healed(everybody, len(everybody))
        cids = sorted(visitor.client.cid for visitor in here)
        for visitor in there:
            assert sorted(event.member.cid for event in visitor.all(Left)) == cids
            assert sorted(event.member.cid for event in visitor.all(Joined)) == cids
        for visitor in here:
            assert visitor.comings_and_goings == []
