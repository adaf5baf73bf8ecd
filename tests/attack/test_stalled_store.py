"""Requests by the thousand while the shared store does not answer: each waits for it, and is kept."""

from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from tests.support.attack import MIB, Bystander, keeps_memory
from tests.support.memory import rss_bytes
from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking, text
from tests.support.redis_server import KINDS, RedisServer

pytestmark = pytest.mark.anyio

ATTACKERS = 10
REQUESTS = 400
"""Each of 16 KB: were they kept, they would take twice of what may be."""
PINNED_MAX = 16 * MIB
REFUSED_MAX = 50


async def flood(client: RawClient, data: bytes, rests: list[bytes]) -> None:
    """Send until nothing more is taken for a while, or all is sent; note what is left."""
    refused = 0
    while data and refused < REFUSED_MAX:
        taken = client.send_some(data[:65_536])
        data = data[taken:]
        refused = 0 if taken else refused + 1
        if not taken:
            await anyio.sleep(0.01)
    rests.append(data)


@pytest.mark.parametrize("joined", [False, True], ids=["entering the room", "in the room"])
async def test_requests_that_wait_for_a_stalled_store_pin_little(tmp_path: Path, *, joined: bool) -> None:
    with RedisServer(KINDS[1]) as store:
        async with Node(tmp_path, "--redis.url", store.url) as node, AsyncExitStack() as stack:
            bystander = await stack.enter_async_context(Bystander(node.port))
            attackers = []
            for number in range(ATTACKERS):
                attacker = await stack.enter_async_context(speaking(node.port, f"/ws?user=mallory-{number}"))
                if joined:
                    await attacker.request(t="join", room=f"room-{number}", mode="none", id=0)
                attackers.append(attacker)
            rests: list[list[bytes]] = [[] for _ in attackers]
            before = rss_bytes(node.pid)
            store.freeze()
            try:
                async with anyio.create_task_group() as tasks:
                    for number, attacker in enumerate(attackers):
                        room = f"room-{number}"
                        publish = text(t="publish", room=room, data="x" * 16_000)
                        data = text(t="join", room=room) + publish * REQUESTS + text(t="ping", id=7)
                        tasks.start_soon(flood, attacker, data, rests[number])
                keeps_memory(node, before, PINNED_MAX)
            finally:
                store.thaw()
            await bystander.keeps_service()
            keeps_memory(node, before, PINNED_MAX)
            for attacker, (rest,) in zip(attackers, rests, strict=True):
                await attacker.send(rest)
                await attacker.until("pong", id=7)
            keeps_memory(node, before, PINNED_MAX)
