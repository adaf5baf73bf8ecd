"""Nodes without faults: everybody knows everybody, wherever they are connected."""

from collections import defaultdict
from contextlib import AsyncExitStack

import anyio
import pytest

from presence_server.client import Left, Message, Signal
from tests.cluster.company import QUICK, StartNode, Visitor, agreed, counts, raw_members, visiting
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_rosters_agree_after_joins_updates_leaves_and_drops(start_node: StartNode) -> None:
    nodes = [await start_node() for _ in range(3)]
    async with visiting(nodes, [f"user-{i % 10}" for i in range(36)]) as visitors:
        await until(agreed(visitors, 36), counts(visitors))
        assert {v.room.user_count for v in visitors} == {10}
        assert {len(v.room.users) for v in visitors} == {10}

        async def update(visitor: Visitor) -> None:
            for step in range(3):
                await visitor.room.update({"step": step})

        async with anyio.create_task_group() as tasks:
            for visitor in visitors:
                tasks.start_soon(update, visitor)
        done = {"step": 2}
        await until(lambda: all(state == done for v in visitors for _, state, _ in v.roster.values()))
        await until(agreed(visitors, 36), counts(visitors))

        leavers, stayers = visitors[:10], visitors[10:]
        for leaver in leavers:
            await leaver.room.leave()
        await until(agreed(stayers, 26), counts(stayers))
        async with AsyncExitStack() as stack:
            for node in nodes:
                dropped = await stack.enter_async_context(raw_members(node, ["dropped"] * 3))
                await until(lambda: any("dropped" in v.room.users for v in stayers))
                for member in dropped:
                    member.reset()
        await until(lambda: len(stayers[0].all(Left)) == 10 + 3 * len(nodes), counts(stayers))
        await until(agreed(stayers, 26), counts(stayers))
        for visitor in stayers:
            cids = [event.member.cid for event in visitor.all(Left)]
            assert len(cids) == len(set(cids)) == 10 + 3 * len(nodes)


@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_300_members_on_three_nodes_agree(start_node: StartNode) -> None:
    nodes = [await start_node() for _ in range(3)]
    async with visiting(nodes, [f"user-{i % 100}" for i in range(300)]) as visitors:
        await until(agreed(visitors, 300), counts(visitors))
        assert {v.room.user_count for v in visitors} == {100}


@pytest.mark.parametrize("store", ["valkey"], indirect=True)
async def test_messages_and_signals_cross_nodes_each_once_and_in_order(start_node: StartNode) -> None:
    nodes = [await start_node() for _ in range(3)]
    async with visiting(nodes, [f"user-{i}" for i in range(12)]) as visitors:
        await until(agreed(visitors, 12), counts(visitors))

        async def talk(visitor: Visitor) -> None:
            for i in range(20):
                await visitor.room.publish(i)
                await visitor.room.signal(f"key-{i}", i)

        async with anyio.create_task_group() as tasks:
            for visitor in visitors:
                tasks.start_soon(talk, visitor)
        expected = 11 * 20
        for kind in (Message, Signal):
            await until(lambda: all(len(v.all(kind)) >= expected for v in visitors))  # noqa: B023 - awaited here
            for visitor in visitors:
                heard = defaultdict(list)
                for event in visitor.all(kind):
                    heard[event.cid].append(event.data)
                others = {v.client.cid for v in visitors} - {visitor.client.cid}
                assert heard == {cid: list(range(20)) for cid in others}


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_nothing_is_left_of_a_room_that_everybody_left(
    start_node: StartNode, store: RedisServer
) -> None:
    nodes = [await start_node(), await start_node()]
    async with visiting(nodes, [f"user-{i}" for i in range(8)]) as visitors:
        await until(agreed(visitors, 8), counts(visitors))
        assert store.room_keys()
        assert store.keys_without_ttl() == []
        await visitors[0].room.leave()
    await until(lambda: store.room_keys() == [], store.room_keys)
