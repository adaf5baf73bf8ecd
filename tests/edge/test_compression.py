"""permessage-deflate (RFC 7692): off by default; when on, one compressed frame serves every client alike."""

import json
import zlib
from collections.abc import AsyncIterator

import aiohttp
import anyio
import pytest
from websockets.asyncio.client import connect

from tests.edge.conftest import UNTHROTTLED
from tests.support.node import Node
from tests.support.rawclient import TEXT, RawClient, frame, speaking

pytestmark = pytest.mark.anyio

EXTENSIONS = "Sec-WebSocket-Extensions"
STATE = {"pad": "abc" * 300}
COMPRESS_FROM_BYTES = 256
DEADLINE_S = 20


@pytest.fixture(scope="module")
async def compressing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (*UNTHROTTLED, "--server.compression", "true")
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


def deflated(payload: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-9)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


async def test_it_is_off_by_default(node: Node) -> None:
    async with RawClient(node.port) as client:
        response = await client.ask(headers={EXTENSIONS: "permessage-deflate; client_max_window_bits"})
        assert (response.status, "sec-websocket-extensions" in response.headers) == (101, False)
        await client.hear()
        await client.send(frame(TEXT, deflated(b'{"t":"ping"}'), rsv=4))
        assert (await client.ending()).code == 1002


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-unknown, permessage-deflate; unknown=1, permessage-deflate",
    ],
)
async def test_no_context_is_taken_over(compressing: Node, offer: str) -> None:
    async with RawClient(compressing.port) as client:
        response = await client.upgrade(headers={EXTENSIONS: offer})
        extension = response.headers["sec-websocket-extensions"]
        assert "server_no_context_takeover" in extension
        message = json.dumps({"t": "join", "room": "takeover", "state": STATE, "id": 1}).encode()
        for _ in range(2):
            await client.send(frame(TEXT, deflated(message), rsv=4))
            received = await client.frame()
            assert received.rsv == 4
            sync = json.loads(zlib.decompress(received.payload + b"\x00\x00\xff\xff\x03\x00", -15))
            assert sync["members"][-1]["state"] == STATE
        await client.send(frame(TEXT, b'{"t":"leave","room":"takeover"}'))


@pytest.mark.parametrize("offer", [None, "x-unknown", "permessage-deflate; unknown=1", "permessage-bzip2"])
async def test_a_client_that_does_not_offer_it_gets_none(compressing: Node, offer: str | None) -> None:
    async with RawClient(compressing.port) as client:
        response = await client.upgrade(headers={EXTENSIONS: offer})
        assert "sec-websocket-extensions" not in response.headers
        await client.say(t="join", room="plain", state=STATE, id=1)
        assert (await client.frame()).rsv == 0


async def test_short_messages_are_left_as_they_are(compressing: Node) -> None:
    async with RawClient(compressing.port) as client:
        await client.upgrade(headers={EXTENSIONS: "permessage-deflate"})
        await client.say(t="ping", id=1)
        received = await client.frame()
        assert (received.rsv, json.loads(received.payload)["t"]) == (0, "pong")
        await client.say(t="join", room="short", state=STATE, id=1)
        received = await client.frame()
        assert received.rsv == 4
        assert len(received.payload) < COMPRESS_FROM_BYTES


async def test_clients_of_every_kind_read_the_same_frames(compressing: Node) -> None:
    states = [{"n": n, "pad": STATE["pad"]} for n in range(20)]
    small = "permessage-deflate; server_max_window_bits=9"
    async with (
        speaking(compressing.port) as writer,
        speaking(compressing.port, headers={EXTENSIONS: "permessage-deflate"}) as raw,
        speaking(compressing.port, headers={EXTENSIONS: small}) as narrow,
        connect(compressing.ws_url, compression="deflate") as library,
        connect(compressing.ws_url, compression=None) as plain,
        aiohttp.ClientSession() as session,
        session.ws_connect(compressing.ws_url, compress=15) as other,
    ):
        assert library.response is not None
        assert "permessage-deflate" in library.response.headers[EXTENSIONS]
        assert other.compress
        request = {"t": "watch", "room": "kinds", "id": 1}
        for client in (raw, narrow):
            await client.request(**request)
        for socket in (library, plain):
            await socket.send(json.dumps(request))
        await other.send_json(request)
        # Who watches must be told so before anything happens: connections are not heard in any one order.
        with anyio.fail_after(DEADLINE_S):
            begun = {
                id(socket): [json.loads(await socket.recv()) for _ in range(2)] for socket in (library, plain)
            }
            begun[id(other)] = [await other.receive_json() for _ in range(2)]
        await writer.request(t="join", room="kinds", state=states[0], id=1)
        for n, state in enumerate(states[1:], 2):
            await writer.request(t="update", room="kinds", state=state, id=n)
        await writer.request(t="publish", room="kinds", data="end", id=100)

        async def hear_websockets(socket: object) -> None:
            assert hasattr(socket, "recv")
            check(begun[id(socket)] + [json.loads(await socket.recv()) for _ in range(21)])

        def check(messages: list[dict[str, object]]) -> None:
            kinds = [message["t"] for message in messages]
            assert kinds == ["welcome", "sync"] + ["diff"] * 20 + ["message"]
            updates = [m["updates"][0]["state"] for m in messages[3:-1]]  # type: ignore[index]  # just decoded
            assert updates == states[1:]

        with anyio.fail_after(DEADLINE_S):
            for client in (raw, narrow):
                heard = await client.until("message")
                check([client.welcome, {"t": "sync"}, *heard])
            for socket in (library, plain):
                await hear_websockets(socket)
            check(begun[id(other)] + [await other.receive_json() for _ in range(21)])
