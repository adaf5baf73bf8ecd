"""The client brings fresh credentials by itself, where it is given a function that has them."""

import time
from pathlib import Path

import anyio
import pytest

from presence_server.client import ConnectionEnded, RequestFailed, connect
from tests.support.node import Node
from tests.support.signing import SECRET, token
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LIFE_S = 3
JWT = ("--auth.mode", "jwt", "--auth.secret", SECRET)


async def test_credentials_are_renewed_before_they_end(tmp_path: Path) -> None:
    given = 0

    async def fresh() -> str:
        nonlocal given
        given += 1
        if given == 1:
            raise RuntimeError("the backend is not there yet")
        return token(sub="ada", exp=time.time() + LIFE_S)

    async with Node(tmp_path, *JWT) as node, connect(node.ws_url, token=fresh) as client:
        cid = client.cid
        await client.join("lobby")
        await until(lambda: given >= 5)
        assert (client.connected, client.cid, client.user) == (True, cid, "ada")


async def test_credentials_that_end_under_a_client_are_replaced_with_the_next_connection(
    tmp_path: Path,
) -> None:
    given: list[str] = []

    async def fresh() -> str:
        if len(given) == 1:
            given.append("")
            raise RuntimeError("the backend is away when the first token ends")
        given.append(token(sub="ada", exp=time.time() + LIFE_S))
        return given[-1]

    async with Node(tmp_path, *JWT) as node, connect(node.ws_url, token=fresh) as client:
        await client.join("lobby")
        await until(lambda: len(given) >= 3 and client.connected)
        assert client.user == "ada"


async def test_a_token_that_ends_ends_who_has_no_other(tmp_path: Path) -> None:
    async def stay(node: Node) -> None:
        async with connect(node.ws_url, token=token(exp=time.time() + LIFE_S)) as client:
            with pytest.raises(RequestFailed, match="unauthorized"):
                await client.authenticate("nonsense")
            await anyio.sleep_forever()

    async with Node(tmp_path, *JWT) as node:
        with anyio.fail_after(30), pytest.raises(ConnectionEnded) as ended:
            await stay(node)
        assert ended.value.code == 4009
