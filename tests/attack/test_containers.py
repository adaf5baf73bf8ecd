"""Messages full of empty containers: each is a value to check, in as few bytes as there can be."""

from functools import partial

import anyio
import msgpack
import pytest

from tests.support.attack import MIB, Bystander, keeps_memory
from tests.support.memory import rss_bytes
from tests.support.node import Node
from tests.support.rawclient import BINARY, MSGPACK, TEXT, RawClient, frame, speaking

pytestmark = pytest.mark.anyio

ATTACKERS = 5
STRIKES = 20
FULL = 16_000
HEAD = b'{"t":"publish","room":"a","id":7,"data":['
JSON_MESSAGE = HEAD + b"[]," * 5_000 + b"[]]}"
MSGPACK_MESSAGE = msgpack.packb({"t": "publish", "room": "a", "id": 7, "data": [[]] * FULL})


async def attack(client: RawClient, message: bytes) -> None:
    """Send such messages until closed for abuse."""
    await client.send(message * STRIKES)
    ending = await client.ending()
    assert ending.code == 4008
    errors = [answer for answer in ending.messages if answer["t"] == "error"]
    assert [(error["code"], error["id"]) for error in errors] == [("bad_message", 7)] * STRIKES


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_messages_full_of_containers_are_refused_while_others_are_served(
    node: Node, codec: str
) -> None:
    headers = {"Sec-WebSocket-Protocol": MSGPACK} if codec == "msgpack" else {}
    message = frame(BINARY, MSGPACK_MESSAGE) if codec == "msgpack" else frame(TEXT, JSON_MESSAGE)
    async with Bystander(node.port) as bystander:
        before = rss_bytes(node.pid)
        async with anyio.create_task_group() as tasks:
            for number in range(ATTACKERS):
                client = RawClient(node.port)
                await client.__aenter__()
                await client.upgrade(f"/ws?user=mallory-{number}", headers)
                tasks.start_soon(partial(attack, client, message))
            await bystander.keeps_service()
        keeps_memory(node, before, 32 * MIB)


async def test_what_is_short_in_one_encoding_is_not_long_in_the_other(node: Node) -> None:
    async with (
        speaking(node.port, headers={"Sec-WebSocket-Protocol": MSGPACK}) as attacker,
        speaking(node.port) as reader,
    ):
        await attacker.request(t="join", room="nul", id=1)
        await reader.request(t="join", room="nul", id=1)
        answer = await attacker.request(t="publish", room="nul", data="\0" * 16_000, id=2)
        assert answer["code"] == "too_large"
        await attacker.request(t="publish", room="nul", data="\0" * 2_000, id=3)
        assert (await reader.hear())["data"] == "\0" * 2_000
