"""Opening a WebSocket: what is let in, as whom, and how the rest is refused."""

import json
from pathlib import Path
from urllib.parse import quote

import msgpack
import pytest

from tests.edge.conftest import UNTHROTTLED
from tests.support.node import Node
from tests.support.rawclient import (
    BINARY,
    CLOSE,
    MSGPACK,
    PING,
    TEXT,
    RawClient,
    Response,
    frame,
    request,
    speaking,
    text,
)

pytestmark = pytest.mark.anyio

JSON = "presence.v1.json"
ORIGIN = "https://app.example.com"


async def asked(node: Node, path: str = "/ws", **headers: str | None) -> Response:
    """Ask for a WebSocket; underscores in the names of headers are hyphens."""
    async with RawClient(node.port) as client:
        return await client.ask(path, {name.replace("_", "-"): value for name, value in headers.items()})


def infos(info: object) -> str:
    return f"/ws?info={quote(json.dumps(info))}"


# --- subprotocols ---


@pytest.mark.parametrize(
    ("offer", "chosen"),
    [
        (JSON, JSON),
        (MSGPACK, MSGPACK),
        (f"{JSON}, {MSGPACK}", JSON),
        (f"{MSGPACK}, {JSON}", MSGPACK),
        (f"presence.v9.json, {MSGPACK},{JSON}", MSGPACK),
        (f"bearer.abc, {JSON}", JSON),
        (f"{MSGPACK}, resume.abc.def", MSGPACK),
    ],
)
async def test_the_first_known_subprotocol_in_the_clients_order_is_chosen(
    node: Node, offer: str, chosen: str
) -> None:
    response = await asked(node, Sec_WebSocket_Protocol=offer)
    assert (response.status, response.headers["sec-websocket-protocol"]) == (101, chosen)


async def test_subprotocols_may_be_offered_in_several_headers(node: Node) -> None:
    async with RawClient(node.port) as client:
        lines = f"Sec-WebSocket-Protocol: bearer.abc\r\nSec-WebSocket-Protocol: {MSGPACK}\r\n\r\n".encode()
        await client.send(request()[:-2] + lines)
        response = await client.respond()
    assert response.headers["sec-websocket-protocol"] == MSGPACK


@pytest.mark.parametrize("offer", [None, "bearer.abc", "resume.abc.def", "bearer.abc, resume.abc"])
async def test_without_a_subprotocol_it_is_json_and_no_secret_is_echoed(
    node: Node, offer: str | None
) -> None:
    async with speaking(node.port, headers={"Sec-WebSocket-Protocol": offer}) as client:
        await client.say(t="ping", id=1)
        assert (await client.hear())["id"] == 1
    assert "sec-websocket-protocol" not in (await asked(node, Sec_WebSocket_Protocol=offer)).headers


@pytest.mark.parametrize(
    "offer", ["presence.v9.json", "chat, superchat", "presence.v1.JSON", "bearer.abc, presence.v9.json"]
)
async def test_unknown_subprotocols_alone_are_a_400(node: Node, offer: str) -> None:
    response = await asked(node, Sec_WebSocket_Protocol=offer)
    assert (response.status, JSON in response.problem["detail"]) == (400, True)
    assert "sec-websocket-protocol" not in response.headers


async def test_json_is_in_text_frames_and_msgpack_in_binary_ones(node: Node) -> None:
    for subprotocol, opcode in ((JSON, TEXT), (MSGPACK, BINARY)):
        async with RawClient(node.port) as client:
            await client.ask(headers={"Sec-WebSocket-Protocol": subprotocol})
            received = await client.frame()
            assert received.opcode == opcode
            decoded = json.loads(received.payload) if opcode == TEXT else msgpack.unpackb(received.payload)
            assert decoded["t"] == "welcome"


# --- who it is ---


async def test_the_welcome_says_everything_that_the_client_must_know(node: Node) -> None:
    async with speaking(node.port, f"/ws?user=alice&info={quote(json.dumps({'name': 'Älice'}))}") as client:
        welcome = client.welcome
    assert set(welcome) == {
        "t", "cid", "user", "info", "resumed", "resume", "node", "ping_ms", "time", "limits"
    }  # fmt: skip
    assert (welcome["user"], welcome["info"]) == ("alice", {"name": "Älice"})
    assert (welcome["resumed"], welcome["node"], welcome["ping_ms"]) == (False, node.id, 15_000)
    assert welcome["limits"]["message_bytes"] == 16_384


async def test_a_client_without_a_name_is_a_guest_of_its_own(node: Node) -> None:
    async with speaking(node.port) as one, speaking(node.port) as other:
        names = {one.welcome["user"], other.welcome["user"]}
    assert len(names) == 2
    for name in names:
        assert name.startswith("guest-")
        assert len(name) == len("guest-") + 8
        assert name.removeprefix("guest-").isalnum()


@pytest.mark.parametrize(
    "user", ["a", "x" * 128, "ж" * 128, "Ada Lovelace", "👩‍🚀", "a@example.com", "nb sp"]
)
async def test_a_name_may_be_any_128_characters(node: Node, user: str) -> None:
    async with speaking(node.port, f"/ws?user={quote(user)}") as client:
        assert client.welcome["user"] == user


@pytest.mark.parametrize(
    "user", ["", "x" * 129, "ж" * 129, "a\x00", "a\nb", "\x1b[31m", "\x7f", "\x85", "tab\there"]
)
async def test_a_name_without_characters_or_with_too_many_or_controls_is_a_400(node: Node, user: str) -> None:
    assert "user" in (await asked(node, f"/ws?user={quote(user)}")).problem["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/ws?user=%ff",
        "/ws?user=%ed%a0%80",
        infos([]),
        infos("a"),
        infos(None),
        infos(1),
        "/ws?info=",
        "/ws?info=%7B",
        "/ws?info=%7B%22a%22%3ANaN%7D",
        "/ws?info=%7B%22a%22%3A1e999%7D",
        "/ws?info=%7B%22a%22%3A%22%5Cud800%22%7D",
        "/ws?info=" + quote('{"a":' * 33 + "1" + "}" * 33),
        "/ws?info=" + quote('{"a":' * 300 + "1" + "}" * 300),
        infos({"a": 2**64}),
        infos({"a": "x" * 1_024}),
        "/ws?" + "&".join(f"x{n}=1" for n in range(100)),
    ],
)
async def test_a_query_that_means_nothing_is_a_400(node: Node, path: str) -> None:
    response = await asked(node, path)
    assert (response.status, response.problem["title"]) == (400, "Bad Request")


@pytest.mark.parametrize("info", [{}, {"a": "x" * (1_024 - len('{"a":""}'))}, {"ж": [1, 2.5, None, True]}])
async def test_info_may_be_any_map_of_1024_bytes(node: Node, info: object) -> None:
    async with speaking(node.port, infos(info)) as client:
        assert client.welcome["info"] == info


async def test_a_bad_resume_token_is_no_error(node: Node) -> None:
    for path in ("/ws?resume=", "/ws?resume=abc", "/ws?resume=a.b.c"):
        async with speaking(node.port, path) as client:
            assert client.welcome["resumed"] is False


async def test_a_resume_token_comes_in_the_query_or_as_a_subprotocol(node: Node) -> None:
    async with speaking(node.port, "/ws?user=alice") as alice:
        cid, token = alice.cid, alice.welcome["resume"]
    async with speaking(node.port, f"/ws?user=alice&resume={token}") as alice:
        assert (alice.welcome["resumed"], alice.cid) == (True, cid)
        token = alice.welcome["resume"]
    offer = {"Sec-WebSocket-Protocol": f"{JSON}, resume.{token}"}
    async with speaking(node.port, "/ws?user=alice", offer) as alice:
        assert (alice.welcome["resumed"], alice.cid) == (True, cid)
        token = alice.welcome["resume"]
    async with speaking(node.port, f"/ws?user=mallory&resume={token}") as mallory:
        assert mallory.welcome["resumed"] is False
        assert mallory.cid != cid


async def test_a_mode_whose_credentials_cannot_be_checked_lets_nobody_in(tmp_path: Path) -> None:
    args = (*UNTHROTTLED, "--auth.mode", "jwt", "--auth.secret", "x" * 32)
    async with Node(tmp_path, *args) as node:
        for path in ("/ws", "/ws?user=alice", "/ws?token=abc"):
            assert (await asked(node, path)).problem["status"] == 401
        assert (await asked(node, Authorization="Bearer abc")).problem["status"] == 401


# --- where it comes from ---


async def test_a_client_without_an_origin_is_no_page_and_always_allowed(tmp_path: Path) -> None:
    async with Node(tmp_path, *UNTHROTTLED, "--server.origins", ORIGIN) as node:
        assert (await asked(node)).status == 101
        assert (await asked(node, Origin=ORIGIN)).status == 101
        assert (await asked(node, Origin="https://APP.example.com")).status == 101
        others = ("https://evil.example.com", "http://app.example.com", f"{ORIGIN}:444", f"{ORIGIN}.evil.com")
        for origin in (*others, "null", ""):
            assert (await asked(node, Origin=origin)).problem["status"] == 403, origin
        assert (await asked(node, origin=ORIGIN, Origin=ORIGIN)).problem["status"] == 400


async def test_a_star_lets_every_page_in(tmp_path: Path) -> None:
    async with Node(tmp_path, *UNTHROTTLED, "--server.origins", "*") as node:
        for origin in (ORIGIN, "null", "http://localhost:3000"):
            assert (await asked(node, Origin=origin)).status == 101


async def test_while_clients_name_themselves_every_page_may_connect_unless_origins_say_otherwise(
    node: Node,
) -> None:
    for origin in (f"http://127.0.0.1:{node.port}", ORIGIN, "null"):
        assert (await asked(node, Origin=origin)).status == 101


# --- what is no handshake ---


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": None, "Upgrade": None},
        {"Upgrade": None},
        {"Connection": "keep-alive"},
        {"Upgrade": "h2c"},
    ],
)
async def test_a_request_for_ws_that_is_no_upgrade_is_a_426(
    node: Node, changes: dict[str, str | None]
) -> None:
    async with RawClient(node.port) as client:
        response = await client.ask(headers=changes)
    assert response.problem["status"] == 426
    assert response.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Key": "AAAA"},
        {"Sec-WebSocket-Key": "!" * 24},
        {"Sec-WebSocket-Version": None},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Protocol": "a b"},
        {"Sec-WebSocket-Protocol": ",,"},
        {"Sec-WebSocket-Protocol": ""},
        {"Sec-WebSocket-Protocol": "presence.v1.json;q=1"},
        {"Connection": "Upgrade;"},
        {"X": "y\r\n folded"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "5"},
        {"Content-Length": "-1"},
        {"No Name": "x"},
        {"": "x"},
        {"X": "a\x00b"},
    ],
    ids=repr,
)
async def test_a_malformed_upgrade_is_a_400(node: Node, changes: dict[str, str | None]) -> None:
    async with RawClient(node.port) as client:
        response = await client.ask(headers=changes)
    assert (response.status, response.problem["title"]) == (400, "Bad Request")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /ws\r\n\r\n",
        b"GET /ws HTTP/2.0\r\n\r\n",
        b"GET /ws HTTP/1.1 more\r\n\r\n",
        b"GET /w\xffs HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\xff\r\nX: \x01\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100 + b"\n",
        b"\n" * 100,
    ],
    ids=lambda data: repr(data[:20]),
)
async def test_bytes_that_are_no_request_are_a_400(node: Node, data: bytes) -> None:
    async with RawClient(node.port) as client:
        await client.send(data)
        assert (await client.respond()).problem["status"] == 400


@pytest.mark.parametrize(
    "changes", [{"X-Long": "x" * 9_000}, {f"X-{n}": "y" for n in range(200)}], ids=["a line", "headers"]
)
async def test_a_request_with_too_long_a_line_or_too_many_headers_is_a_431(
    node: Node, changes: dict[str, str | None]
) -> None:
    async with RawClient(node.port) as client:
        response = await client.ask(headers=changes)
    assert (response.status, response.problem["title"]) == (431, "Request Header Fields Too Large")


@pytest.mark.parametrize("end", [b" HTTP/1.1\r\n\r\n", b""])
async def test_a_line_is_refused_once_it_is_long_with_or_without_an_end(node: Node, end: bytes) -> None:
    async with RawClient(node.port) as client:
        await client.send(b"GET /" + b"x" * 12_000 + end)
        assert (await client.respond()).problem["status"] == 431


async def test_headers_without_an_end_are_refused_once_they_are_many(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.send(b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 200)
        assert (await client.respond()).problem["status"] == 431


@pytest.mark.parametrize("path", ["/", "/ws/", "/wss", "//ws", "/WS", "/nowhere", "*", "/static/../ws"])
async def test_an_upgrade_elsewhere_opens_nothing(node: Node, path: str) -> None:
    response = await asked(node, path)
    assert response.status == (200 if path == "/" else 404)


@pytest.mark.parametrize(
    "target", ["//[", "http://[", "//[/ws", "http://[x]/ws", "ws", "?user=a", "//x/ws", "a:b"]
)
async def test_a_target_that_is_no_path_of_this_server_is_refused(node: Node, target: str) -> None:
    before = len(node.log)
    assert (await asked(node, target)).problem["status"] in {400, 404}
    assert "connection failed" not in node.log[before:]


async def test_a_query_or_an_escape_does_not_hide_an_unknown_path(node: Node) -> None:
    assert (await asked(node, "/nowhere?user=alice")).problem["status"] == 404


# --- full ---


async def test_a_full_node_says_503_until_somebody_leaves(tmp_path: Path) -> None:
    async with Node(tmp_path, *UNTHROTTLED, "--server.max_connections", "1") as node:
        async with speaking(node.port) as only:
            response = await asked(node)
            assert response.problem["status"] == 503
            assert int(response.headers["retry-after"]) >= 1
            async with RawClient(node.port) as client:
                assert (await client.ask("/healthz", base={})).status == 200
            await only.close()
        async with speaking(node.port) as next_one:
            assert next_one.cid


async def test_what_follows_the_handshake_at_once_is_heard(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.send(request() + b"".join(text(t="ping", id=n) for n in range(3)))
        assert (await client.respond()).status == 101
        assert (await client.hear())["t"] == "welcome"
        assert [(await client.hear())["id"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    "data",
    [frame(CLOSE, b"\x03\xe8"), frame(PING, b"x"), frame(TEXT, b"x", masked=False), b"\r\n", request()],
    ids=["close", "ping", "unmasked", "newline", "request"],
)
async def test_what_follows_too_early_ends_no_more_than_its_connection(node: Node, data: bytes) -> None:
    for path in ("/ws", "/healthz", "/nothing"):
        async with RawClient(node.port) as client:
            await client.send(request(path) + data)
            response = await client.respond()
            assert response.status in {"/ws": {101, 400}, "/healthz": {200}, "/nothing": {404}}[path]
    assert "connection failed" not in node.log
