"""The network between nodes and their store fails: cut, hanging, or for messages alone."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from presence_server.client import Joined, Left, StaleChanged, Synced
from tests.cluster.company import ROOM, TTL_S, StartNode, Visitor, agreed, counts, visiting
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["valkey"], indirect=True)]

USERS = [f"user-{i}" for i in range(12)]
Trouble = Callable[[Proxy], None]
LOOKED_AT = (f"ps:{{{ROOM}}}:meta", f"ps:{{{ROOM}}}:expiry")
LOOK = """
local time = redis.call('TIME')
local hold = redis.call('HGET', KEYS[1], 'hold') or '0'
return {hold, string.format('%.0f', time[1] * 1000 + time[2] / 1000), redis.call('ZCARD', KEYS[2])}
"""
"""Until when the room holds, what time it is, and how many members it has, at one moment."""


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
        await until(
            lambda: agreed(visitors, len(USERS))() and not any(v.room.stale for v in visitors),
            counts(visitors),
        )
        for visitor in visitors:
            visitor.forget_events()
        yield nodes, visitors


def all_stale(visitors: list[Visitor]) -> Callable[[], bool]:
    """Return whether all have been told that others may be out of date, as a condition."""
    return lambda: all(visitor.room.stale for visitor in visitors)


async def healed(visitors: list[Visitor], number: int) -> None:
    """Wait until all is well again, and see that it stays so."""
    await until(
        lambda: not any(v.room.stale for v in visitors) and agreed(visitors, number)(), counts(visitors)
    )
    await anyio.sleep(TTL_S + 1)
    assert agreed(visitors, number)(), counts(visitors)()


@pytest.mark.parametrize(
    ("trouble", "away_s"),
    [(Proxy.cut, 0.0), (Proxy.hang, TTL_S + 1), (Proxy.cut_subscribers, TTL_S + 1)],
)
async def test_nobody_leaves_when_all_nodes_are_cut_off(
    start_node: StartNode, networks: list[Proxy], trouble: Trouble, away_s: float
) -> None:
    async with company(start_node, networks) as (_, visitors):
        for network in networks:
            trouble(network)
        await until(all_stale(visitors), counts(visitors))
        await anyio.sleep(away_s)
        for network in networks:
            network.heal()
        await healed(visitors, len(USERS))
        for visitor in visitors:
            assert visitor.comings_and_goings == []
            assert [event.stale for event in visitor.all(StaleChanged)] == [True, False]


@pytest.mark.parametrize("trouble", [Proxy.cut, Proxy.hang])
async def test_joins_on_several_islands_at_once_are_all_there_afterwards(
    start_node: StartNode, networks: list[Proxy], trouble: Trouble
) -> None:
    async with company(start_node, networks) as (nodes, visitors):
        for network in networks:
            trouble(network)
        await until(all_stale(visitors), counts(visitors))
        late = ["late-0", "late-1", "late-2"]
        async with visiting(nodes, late) as newcomers:
            assert all(newcomer.room.stale for newcomer in newcomers)
            await visitors[0].room.update({"alone": True})
            await anyio.sleep(TTL_S + 1)
            for network in networks:
                network.heal()
            everybody = [*visitors, *newcomers]
            await healed(everybody, len(USERS) + 3)
            for visitor in visitors:
                assert visitor.all(Left) == []
                assert visitor.all(Synced) == []
                assert sorted(event.member.user for event in visitor.all(Joined)) == late


async def test_who_leaves_on_an_island_has_left_everywhere_afterwards(
    start_node: StartNode, networks: list[Proxy]
) -> None:
    async with company(start_node, networks) as (_, visitors):
        for network in networks:
            network.cut()
        await until(all_stale(visitors), counts(visitors))
        leaver, *others = visitors
        for visitor in others:
            visitor.forget_events()
        await leaver.room.leave()
        for network in networks:
            network.heal()
        await healed(others, len(USERS) - 1)
        for visitor in others:
            assert [event.member.cid for event in visitor.all(Left)] == [leaver.client.cid]


@pytest.mark.parametrize("trouble", [Proxy.cut, Proxy.hang])
async def test_one_node_cut_off_for_longer_than_the_ttl_is_dead_to_the_others_and_comes_back(
    start_node: StartNode, networks: list[Proxy], trouble: Trouble
) -> None:
    nodes = [await start_node(network.url) for network in networks]
    async with visiting(nodes[:1], ["ann", "bob", "cem"]) as here, visiting(nodes[1:], USERS) as there:
        everybody = [*here, *there]
        await until(agreed(everybody, len(everybody)), counts(everybody))
        for visitor in everybody:
            visitor.forget_events()
        trouble(networks[0])
        await until(agreed(there, len(there)), counts(there))
        await until(all_stale(here), counts(here))
        assert agreed(here, len(everybody))(), "an island judges nobody"
        networks[0].heal()
        await healed(everybody, len(everybody))
        cids = sorted(visitor.client.cid for visitor in here)
        for visitor in there:
            assert sorted(event.member.cid for event in visitor.all(Left)) == cids
            assert sorted(event.member.cid for event in visitor.all(Joined)) == cids
            assert visitor.all(StaleChanged) == []
        for visitor in here:
            assert visitor.comings_and_goings == []


async def test_one_node_cut_off_for_less_than_the_ttl_goes_unseen(
    start_node: StartNode, networks: list[Proxy]
) -> None:
    async with company(start_node, networks[:2]) as (nodes, visitors):
        networks[0].cut()
        here = [visitor for visitor in visitors if visitor.client.node == nodes[0].id]
        await until(all_stale(here), counts(here))
        networks[0].heal()
        await healed(visitors, len(USERS))
        for visitor in visitors:
            assert visitor.comings_and_goings == []


async def test_a_late_return_is_waited_for(
    start_node: StartNode, networks: list[Proxy], store: RedisServer
) -> None:
    """The first node back must not judge the members of one that needs longer."""
    async with company(start_node, networks) as (_, visitors):
        for network in networks:
            network.cut()
        await until(all_stale(visitors), counts(visitors))
        await anyio.sleep(TTL_S + 1)
        networks[0].heal()
        looks: list[list[int]] = []

        def looked() -> bool:
            looks.append([int(number) for number in store.ask("EVAL", LOOK, 2, *LOOKED_AT)])
            return looks[-1][0] > 0

        await until(looked)
        hold_ms, now_ms, members = looks[-1]
        assert members == len(USERS) or now_ms > hold_ms, "the first node back has judged the others' members"
        for network in networks[1:]:
            network.heal()
        await healed(visitors, len(USERS))
        for visitor in visitors:
            assert visitor.all(Left) == []
