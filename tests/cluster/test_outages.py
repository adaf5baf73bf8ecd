"""The shared store dies, forgets or freezes: nobody is said to leave, and every node goes on with its own."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest

from presence_server.client import Joined, Left, Message, Synced
from tests.cluster.company import QUICK, TTL_S, StartNode, Visitor, agreed, counts, settled, visiting
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("pace", [QUICK], ids=["quick"])]


async def test_a_store_that_was_dead_for_longer_than_the_ttl_costs_nobody_their_place(
    start_node: StartNode, store: RedisServer
) -> None:
    async def restart() -> None:
        store.start()

    await _outage(start_node, store.kill, restart, away_s=TTL_S + 1)


async def test_a_store_frozen_for_longer_than_the_ttl_costs_nobody_their_place(
    start_node: StartNode, store: RedisServer
) -> None:
    async def thaw() -> None:
        store.thaw()

    await _outage(start_node, store.freeze, thaw, away_s=TTL_S + 1)


async def _outage(
    start_node: StartNode,
    begin: Callable[[], None],
    end: Callable[[], Awaitable[None]],
    away_s: float,
) -> None:
    nodes = [await start_node(), await start_node()]
    async with visiting(nodes, [f"user-{i}" for i in range(20)]) as visitors:
        await until(settled(visitors, 20), counts(visitors))
        for visitor in visitors:
            visitor.forget_events()
        begin()
        await until(lambda: all(v.room.stale for v in visitors), counts(visitors))
        async with visiting(nodes[:1], ["late-0"]) as (late_0,), visiting(nodes[1:], ["late-1"]) as (late_1,):
            await _go_on_alone(nodes, visitors, [late_0, late_1])
            await anyio.sleep(away_s)
            await end()
            everybody = [*visitors, late_0, late_1]
            await _come_back(everybody, 22)
            for visitor in visitors:
                assert visitor.all(Left) == []
                assert sorted(event.member.user for event in visitor.all(Joined)) == ["late-0", "late-1"]
                assert visitor.all(Synced) == []


async def _go_on_alone(nodes: Sequence[Node], visitors: Sequence[Visitor], late: Sequence[Visitor]) -> None:
    """On each node: a newcomer is seen, an update and a message arrive."""
    for node, newcomer in zip(nodes, late, strict=True):
        here = [visitor for visitor in visitors if visitor.client.node == node.id]
        cid, speaker = newcomer.client.cid, here[0]
        await until(lambda: all(cid in v.room.members for v in here), counts(here))  # noqa: B023 - awaited here
        await speaker.room.update({"alone": node.id})
        await speaker.room.publish(node.id)
        for hearer in here[1:]:
            await until(lambda: [m for m in hearer.all(Message) if m.data == node.id])  # noqa: B023 - awaited here
            await until(
                lambda: hearer.room.members[speaker.client.cid].state == {"alone": node.id}  # noqa: B023 - awaited here
            )


async def _come_back(everybody: Sequence[Visitor], number: int) -> None:
    await until(settled(everybody, number), counts(everybody))
    # What was going to expire wrongly would have by now; then all must still agree, and hear each other.
    await anyio.sleep(TTL_S + 1)
    assert agreed(everybody, number)(), counts(everybody)()
    await everybody[0].room.publish("together")
    for visitor in everybody[1:]:
        await until(lambda: [m for m in visitor.all(Message) if m.data == "together"])  # noqa: B023 - awaited here
