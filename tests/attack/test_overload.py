"""A node that has more to do than it can: newcomers go first, then signals, and members keep their service.

The node is overloaded by being stopped (SIGSTOP) for most of the time, which no machine is too fast for.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest

from tests.support.attack import Bystander
from tests.support.metrics import scrape, value
from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

STOPPED_S: Final = 0.3
"""Longer than the bar and the time between two samples of a node's delay together: each is due while it is stopped."""
RUNS_S: Final = 0.01
REFUSED: Final = 503


@asynccontextmanager
async def overloaded(node: Node) -> AsyncIterator[None]:
    """Have a node late with everything."""

    async def hold_up() -> None:
        while True:
            node.freeze()
            await anyio.sleep(STOPPED_S)
            node.thaw()
            await anyio.sleep(RUNS_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_up)
        yield
        tasks.cancel_scope.cancel()
    node.thaw()


async def come(node: Node) -> int:
    """Return the status that a newcomer is answered with."""
    async with RawClient(node.port) as client:
        return (await client.ask()).status


async def come_with_refusals_as_closes(node: Node) -> int | None:
    """Return the code that a newcomer is closed with that cannot see a status; None: it came in."""
    async with RawClient(node.port) as client:
        await client.ask(headers={"Sec-WebSocket-Protocol": "presence.v1.json, refusals.close"})
        first = await client.hear()
        return None if first["t"] == "welcome" else int(first["code"])


async def signal_and_count(node: Node, member: RawClient) -> float:
    """Send a signal, and return how many were dropped so far."""
    await member.say(t="signal", room="r", key="cursor", data=1)
    return value(await scrape(node), "presence_shed_total", what="signals")


async def test_newcomers_are_refused_and_signals_dropped_until_it_is_over(tmp_path: Path) -> None:
    async with (
        Node(tmp_path, "--limits.overload_ms", "100") as node,
        Bystander(node.port) as bystander,
        speaking(node.port) as member,
    ):
        await member.request(t="join", room="r", id=1)
        async with overloaded(node):
            await eventually(lambda: come(node), lambda status: status == REFUSED)
            await eventually(lambda: come_with_refusals_as_closes(node), lambda code: code == 4100)
            await eventually(lambda: signal_and_count(node, member), lambda dropped: dropped > 0)
            assert (await member.request(t="publish", room="r", data="kept", id=2))["t"] == "ok"
            await bystander.keeps_service()
        await eventually(lambda: come(node), lambda status: status == 101)
        samples = await scrape(node)
        assert value(samples, "presence_shed_total", what="handshakes") >= 2
        await eventually(lambda: level(node), lambda level: level == 0)


async def level(node: Node) -> float:
    return value(await scrape(node), "presence_overload_level")
