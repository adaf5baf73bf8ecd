"""Messages cut into frames of one byte: each frame costs what a message costs, and no rate counts it."""

import anyio
import pytest

from presence_server.edge.assembly import FRAGMENTS_MAX, FRAGMENTS_WITHIN_MAX
from tests.support.attack import Bystander
from tests.support.node import Node
from tests.support.rawclient import CONT, TEXT, RawClient, frame, speaking

pytestmark = pytest.mark.anyio

PING = b'{"t":"ping","id":7}'


def crumbled(message: bytes, pieces: int) -> bytes:
    """Return a message in so many frames: all of it in the first ones, spaces in the rest."""
    padded = message.ljust(pieces)
    head = frame(TEXT, padded[: len(padded) - pieces + 1], fin=False)
    rest = padded[len(padded) - pieces + 1 :]
    frames = [frame(CONT, rest[n : n + 1], fin=n == len(rest) - 1) for n in range(len(rest))]
    return head + b"".join(frames)


async def attack(client: RawClient, data: bytes) -> None:
    """Send, and be closed for abuse."""
    await client.send(data)
    ending = await client.ending()
    assert ending.code == 4008
    assert ending.bye is not None


async def test_a_message_may_come_in_so_many_frames_and_no_more(node: Node) -> None:
    async with speaking(node.port) as client:
        await client.send(crumbled(PING, FRAGMENTS_MAX))
        assert (await client.hear())["id"] == 7
        await attack(client, crumbled(PING, FRAGMENTS_MAX + 1))


async def test_so_many_fragments_may_come_at_once_and_no_more(node: Node) -> None:
    async with speaking(node.port) as client:
        messages, rest = divmod(FRAGMENTS_WITHIN_MAX, 100)
        assert rest == 0
        await client.send(crumbled(PING, 100) * messages)
        for _ in range(messages):
            assert (await client.hear())["t"] == "pong"
        await attack(client, crumbled(PING, 2))


async def test_a_flood_of_fragments_ends_while_others_are_served(node: Node) -> None:
    flood = crumbled(PING, 600) * 20
    async with Bystander(node.port) as bystander, anyio.create_task_group() as tasks:
        for number in range(20):
            client = RawClient(node.port)
            await client.__aenter__()
            await client.upgrade(f"/ws?user=mallory-{number}")
            tasks.start_soon(attack, client, flood)
        await bystander.keeps_service()
