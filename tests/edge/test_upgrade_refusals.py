"""Refusals told with a close code, to clients that cannot see a handshake's status and say so."""

from pathlib import Path

import msgpack
import pytest

from tests.support.node import Node
from tests.support.rawclient import CLOSE, MSGPACK, PONG, EndedError, RawClient, frame, speaking, text
from tests.support.signing import SECRET, token

pytestmark = pytest.mark.anyio

JSON = "presence.v1.json"
ORIGIN = "https://app.example"
CLOSES = "refusals.close"


async def told(
    node: Node, path: str = "/ws?user=ann", offer: str = f"{JSON}, {CLOSES}", **headers: str
) -> tuple[int, str]:
    """Return the code and the reason of the only thing that is ever said."""
    async with RawClient(node.port) as client:
        response = await client.ask(path, {"Sec-WebSocket-Protocol": offer, **headers})
        assert response.status == 101
        assert response.headers.get("sec-websocket-protocol") in {JSON, MSGPACK, CLOSES}
        ending = await client.ending()
    (bye,) = ending.messages
    assert bye.keys() <= {"t", "code", "reason", "reconnect_ms"}
    assert ending.code == bye["code"]
    return bye["code"], bye["reason"]


async def test_an_open_door_is_open(node: Node) -> None:
    for offer, chosen in (
        (f"{JSON}, {CLOSES}", JSON),
        (f"{CLOSES}, {MSGPACK}", MSGPACK),
        (CLOSES, CLOSES),
    ):
        async with RawClient(node.port) as client:
            response = await client.upgrade(headers={"Sec-WebSocket-Protocol": offer})
            assert response.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize(
    ("path", "offer"),
    [
        ("/ws?user=", f"{JSON}, {CLOSES}"),
        ("/ws?info=%7B", f"{JSON}, {CLOSES}"),
        ("/ws?user=%ff", f"{JSON}, {CLOSES}"),
        ("/ws", f"presence.v9.json, {CLOSES}"),
    ],
)
async def test_a_malformed_handshake_is_a_4000_that_says_what_is_wrong(
    node: Node, path: str, offer: str
) -> None:
    code, reason = await told(node, path, offer)
    assert code == 4000
    assert len(reason) > len("malformed")


async def test_another_path_is_a_4000_that_names_the_right_one_and_is_logged(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        assert await told(node, "/socket?token=secret") == (4000, "WebSockets are at /ws, not at /socket")
        assert await told(node, "/") == (4000, "WebSockets are at /ws, not at /")
        async with RawClient(node.port) as client:
            offered = {"Sec-WebSocket-Protocol": JSON}
            assert (await client.ask("/socket", offered)).problem["status"] == 404
        assert "WebSockets are at /ws" in node.log
        assert "secret" not in node.log


async def test_bad_credentials_are_a_4001(tmp_path: Path) -> None:
    flags = ("--auth.mode", "jwt", "--auth.secret", SECRET)
    async with Node(tmp_path, *flags) as node:
        assert await told(node, "/ws") == (4001, "unauthorized")
        assert await told(node, "/ws?token=abc") == (4001, "unauthorized")
        async with speaking(node.port, f"/ws?token={token()}", {"Sec-WebSocket-Protocol": CLOSES}) as client:
            assert client.welcome["user"] == "alice"


async def test_a_refused_origin_learns_no_more_than_that(tmp_path: Path) -> None:
    flags = ("--server.origins", ORIGIN, "--server.max_connections", "1")
    async with Node(tmp_path, *flags) as node, speaking(node.port, "/ws?user=ann"):
        for path in ("/ws?user=ann", "/ws?user=%ff", "/ws?info=%7B"):
            assert await told(node, path, Origin="https://evil.example") == (4004, "forbidden")
        assert await told(node, Origin=ORIGIN) == (4100, "overloaded")


async def test_too_many_are_a_4101_and_a_full_node_is_a_4100_that_say_when_to_come_back(
    tmp_path: Path,
) -> None:
    flags = ("--server.max_connections", "1", "--throttle.connect", "2/600s")
    async with Node(tmp_path, *flags) as node:
        async with speaking(node.port, "/ws?user=ann"):
            assert await told(node) == (4100, "overloaded")
        async with speaking(node.port, "/ws?user=ann"):
            pass
        async with RawClient(node.port) as client:
            await client.ask("/ws?user=ann", {"Sec-WebSocket-Protocol": f"{MSGPACK}, {CLOSES}"})
            bye = msgpack.unpackb((await client.frame()).payload)
        assert (bye["t"], bye["code"], bye["reason"]) == ("bye", 4101, "throttled")
        assert 1_000 <= bye["reconnect_ms"] <= 600_000


async def test_a_draining_node_is_a_4200(tmp_path: Path) -> None:
    async with Node(tmp_path, "--server.drain_ms", "20000") as node, RawClient(node.port) as waiting:
        await waiting.upgrade()
        node.terminate()
        # It waits for this one to close its side; the port stays open until the end.
        await waiting.until("bye")
        assert await told(node) == (4200, "draining")
        await waiting.close(4200)
        assert await node.wait() == 0


async def test_what_such_a_client_sends_is_not_heard(node: Node) -> None:
    async with RawClient(node.port) as client:
        await client.ask(headers={"Sec-WebSocket-Protocol": f"presence.v9.json, {CLOSES}"})
        await client.send(text(t="join", room="lobby", id=1) + frame(PONG))
        assert (await client.hear())["t"] == "bye"
        assert (await client.frame()).opcode == CLOSE
        await client.send(text(t="join", room="lobby", id=2) + frame(CLOSE, b"\x0f\xa0"))
        with pytest.raises(EndedError):
            await client.frame()
    async with speaking(node.port) as other:
        sync = await other.request(t="watch", room="lobby", id=1)
        assert sync["count"] == 0
