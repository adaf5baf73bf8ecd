"""TLS on the client port."""

import json
import ssl
from collections.abc import AsyncIterator

import anyio
import pytest
from websockets.asyncio.client import connect

from tests.edge.conftest import UNTHROTTLED
from tests.support.memory import open_files
from tests.support.node import PROJECT, Node
from tests.support.rawclient import EndedError, RawClient, request

pytestmark = pytest.mark.anyio

FIXTURES = PROJECT / "tests" / "config" / "tls"
HANDSHAKE_MS = 500
DEADLINE_S = 20


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (*UNTHROTTLED, "--limits.handshake_ms", str(HANDSHAKE_MS))
    args += ("--server.tls_cert", str(FIXTURES / "cert.pem"), "--server.tls_key", str(FIXTURES / "key.pem"))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(FIXTURES / "cert.pem"))
    context.check_hostname = False
    return context


async def test_a_conversation_goes_over_tls(node: Node) -> None:
    url = node.ws_url.replace("ws:", "wss:")
    with anyio.fail_after(DEADLINE_S):
        async with connect(url, ssl=trusting()) as alice, connect(url, ssl=trusting()) as bob:
            for client in (alice, bob):
                assert json.loads(await client.recv())["t"] == "welcome"
                await client.send(json.dumps({"t": "join", "room": "lobby", "id": 1}))
                assert json.loads(await client.recv())["t"] == "sync"
            assert json.loads(await alice.recv())["t"] == "diff"
            data = "x" * 16_000
            await bob.send(json.dumps({"t": "publish", "room": "lobby", "data": data}))
            assert json.loads(await alice.recv())["data"] == data
            await bob.close()
            assert bob.close_code == 1000


async def test_pages_are_served_over_tls(node: Node) -> None:
    with anyio.fail_after(DEADLINE_S):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting()
            context.minimum_version = context.maximum_version = version
            reader = await anyio.connect_tcp(
                "127.0.0.1", node.port, ssl_context=context, tls_standard_compatible=False
            )
            async with reader:
                await reader.send(request("/healthz", base={}))
                answer = b""
                async for data in reader:
                    answer += data
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b'{"status":"ok"}')


async def test_plain_text_is_not_let_in(node: Node) -> None:
    async with RawClient(node.port) as client:
        with pytest.raises(EndedError):
            await client.ask("/healthz", base={})


async def test_a_tls_handshake_that_never_ends_is_gone_in_time(node: Node) -> None:
    files = open_files(node.pid)
    hello = bytes.fromhex("16030100c8010000c40303") + b"\x00" * 50
    with anyio.fail_after(DEADLINE_S):
        for beginning in (b"", b"\x16", hello):
            async with RawClient(node.port) as client:
                await client.send(beginning)
                with pytest.raises(EndedError):
                    await client.receive()
        while open_files(node.pid) > files:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.01)


async def test_a_request_that_never_ends_is_gone_in_time(node: Node) -> None:
    with anyio.fail_after(DEADLINE_S):
        reader = await anyio.connect_tcp(
            "127.0.0.1", node.port, ssl_context=trusting(), tls_standard_compatible=False
        )
        async with reader:
            await reader.send(b"GET /ws HTTP/1.1\r\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await reader.receive()


async def test_a_drain_ends_tls_connections_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    args = ("--server.tls_cert", str(FIXTURES / "cert.pem"), "--server.tls_key", str(FIXTURES / "key.pem"))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        async with connect(node.ws_url.replace("ws:", "wss:"), ssl=trusting()) as client:
            await client.recv()
            node.terminate()
            with anyio.fail_after(DEADLINE_S):
                bye = json.loads(await client.recv())
                assert (bye["t"], bye["code"]) == ("bye", 4200)
                await client.wait_closed()
            assert client.close_code == 4200
        assert await node.wait() == 0
