"""Bursts of messages and of handshakes: others are served before the burst is done."""

from pathlib import Path

import anyio
import pytest

from tests.support.attack import Bystander, many
from tests.support.node import Node
from tests.support.rawclient import RawClient, frame, request, speaking, text

pytestmark = pytest.mark.anyio

TEXT = 0x1
BURSTS = 12
MESSAGES = 5_000
HEAVY = b'{"t":"publish","room":"r","data":[' + b"[]," * 4_000 + b"[]]}"
"""Nearly as many containers as a message may have."""


async def test_who_asks_once_is_answered_before_who_asks_a_thousand_times(node: Node) -> None:
    burst = b"".join(text(t="ping") for _ in range(MESSAGES)) + text(t="ping", id=1)
    done: list[int] = []

    async def attack(client: RawClient) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, burst)
            while (await client.hear()).get("id") != 1:
                pass
        done.append(1)

    async with Bystander(node.port) as bystander, many(node.port, BURSTS) as clients:
        for client in clients:
            await client.upgrade()
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(attack, client)
            await bystander.keeps_service(2)
            assert len(done) < BURSTS


async def test_one_heavy_burst_does_not_hold_a_light_request(node: Node) -> None:
    """The attacker's burst is in the node's hands, as one write, before the bystander asks."""
    burst = frame(TEXT, HEAVY) * 400 + text(t="ping", id=1)
    async with speaking(node.port) as heavy, speaking(node.port) as light:
        await heavy.request(t="join", room="r", id=0)
        sent = heavy.send_some(burst)
        assert sent > 100_000
        order: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def hear_heavy() -> None:
                await heavy.send(burst[sent:])
                await heavy.until("pong", id=1)
                order.append("heavy")

            tasks.start_soon(hear_heavy)
            await light.request(t="ping", id=1)
            order.append("light")
        assert order == ["light", "heavy"]


async def test_a_member_is_answered_before_a_storm_of_handshakes_is_done(tmp_path: Path) -> None:
    answered: list[int] = []

    async def come(client: RawClient) -> None:
        assert (await client.respond()).status == 101
        answered.append(1)

    async with (
        Node(tmp_path, "--limits.pending_per_ip", "1024") as node,
        Bystander(node.port) as bystander,
        many(node.port, 800) as storm,
        anyio.create_task_group() as tasks,
    ):
        for client in storm:
            assert client.send_some(request()) > 0
        for client in storm:
            tasks.start_soon(come, client)
        await bystander.keeps_service(3)
        assert len(answered) < len(storm)
