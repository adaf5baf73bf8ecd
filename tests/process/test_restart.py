"""A single process without a shared store is restarted: it has forgotten its rooms, and says so once."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.rawclient import speaking

pytestmark = pytest.mark.anyio

CLIENTS = 30


@pytest.mark.parametrize("secret", ["", "a secret that outlives the process, of 32 bytes and more"])
async def test_clients_that_come_back_hear_of_everybody_in_one_sync_and_of_no_joins(
    tmp_path: Path, secret: str
) -> None:
    async with Node(tmp_path, "--auth.resume_secret", secret) as node:
        tokens = await tokens_of_members(node)
        node.kill()
        await node.wait()
        await node.start()
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(speaking(node.port, f"/ws?user=user-{i}&resume={token}"))
                for i, token in enumerate(tokens.values())
            ]
            assert ({client.cid for client in clients} == tokens.keys()) is bool(secret)
            for client in clients:
                await client.say(t="join", room="lobby", id=1)
            for client in clients:
                sync = await client.hear()
                assert (sync["t"], len(sync["members"])) == ("sync", CLIENTS)
            await clients[0].say(t="publish", room="lobby", data="the end")
            for client in clients[1:]:
                assert (await client.hear())["t"] == "message"


async def tokens_of_members(node: Node) -> dict[str, str]:
    """Let clients join, lose them, and return their resume tokens by cid."""
    tokens = {}
    async with AsyncExitStack() as stack:
        for i in range(CLIENTS):
            client = await stack.enter_async_context(speaking(node.port, f"/ws?user=user-{i}"))
            tokens[client.cid] = client.welcome["resume"]
            await client.request(t="join", room="lobby", id=1)
    return tokens
