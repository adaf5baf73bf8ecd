"""Two implementations of WebSockets that share nothing with the server's: the same conversation with both."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import aiohttp
import anyio
import msgpack
import pytest
from anyio import from_thread, to_thread
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from tests.support.node import Node
from tests.support.rawclient import Fields

pytestmark = pytest.mark.anyio

JSON, MSGPACK = "presence.v1.json", "presence.v1.msgpack"
DEADLINE_S = 20


class Talk(Protocol):
    """A client that talks one message at a time."""

    def say(self, **fields: Any) -> None: ...

    def hear(self) -> Fields: ...

    def close(self) -> int: ...


class Wsproto:
    """A blocking client: wsproto on a socket."""

    def __init__(self, port: int, user: str, subprotocol: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._pack = json.dumps if subprotocol == JSON else msgpack.packb
        self._events = self._read()
        request = Request(host="localhost", target=f"/ws?user={user}", subprotocols=[subprotocol])
        self._socket.sendall(self._ws.send(request))
        accepted = next(self._events)
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == subprotocol

    def _read(self) -> Iterator[Any]:
        while True:
            data = self._socket.recv(4_096)
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                if isinstance(event, Ping):
                    self._socket.sendall(self._ws.send(event.response()))
                else:
                    yield event

    def say(self, **fields: Any) -> None:
        packed = self._pack(fields)
        message = TextMessage(packed) if isinstance(packed, str) else BytesMessage(packed)
        self._socket.sendall(self._ws.send(message))

    def hear(self) -> Fields:
        data: Any = None
        while True:
            event = next(self._events)
            assert isinstance(event, TextMessage | BytesMessage), event
            data = event.data if data is None else data + event.data
            if event.message_finished:
                break
        message = json.loads(data) if isinstance(data, str) else msgpack.unpackb(bytes(data))
        assert isinstance(message, dict)
        return message

    def close(self) -> int:
        self._socket.sendall(self._ws.send(CloseConnection(code=1000)))
        event = next(self._events)
        assert isinstance(event, CloseConnection)
        assert not self._socket.recv(1)
        self._socket.close()
        return event.code


class Aiohttp:
    """aiohttp's client, called from a thread."""

    def __init__(self, port: int, user: str, subprotocol: str) -> None:
        self._is_json = subprotocol == JSON
        from_thread.run(self._open, f"http://127.0.0.1:{port}/ws?user={user}", subprotocol)

    async def _open(self, url: str, subprotocol: str) -> None:
        self._session = aiohttp.ClientSession()
        self._ws = await self._session.ws_connect(url, protocols=[subprotocol])
        assert self._ws.protocol == subprotocol

    def say(self, **fields: Any) -> None:
        if self._is_json:
            from_thread.run(self._ws.send_str, json.dumps(fields))
        else:
            from_thread.run(self._ws.send_bytes, msgpack.packb(fields))

    def hear(self) -> Fields:
        received = from_thread.run(self._ws.receive, DEADLINE_S)
        assert received.type is (aiohttp.WSMsgType.TEXT if self._is_json else aiohttp.WSMsgType.BINARY)
        message = json.loads(received.data) if self._is_json else msgpack.unpackb(received.data)
        assert isinstance(message, dict)
        return message

    def close(self) -> int:
        return from_thread.run(self._close)

    async def _close(self) -> int:
        await self._ws.close(code=1000)
        await self._session.close()
        assert self._ws.close_code is not None
        return self._ws.close_code


def converse(alice: Talk, bob: Talk, room: str) -> None:
    """Join, see each other, update, publish, signal, page, leave, close."""
    hers, his = alice.hear(), bob.hear()
    assert (hers["t"], hers["user"], his["t"], his["user"]) == ("welcome", "alice", "welcome", "bob")

    alice.say(t="join", room=room, state={"at": [1.5, -7, 2**53, True, None, "ж👩‍🚀"]}, id=1)
    sync = alice.hear()
    assert (sync["t"], sync["id"], sync["count"], sync["you"]) == ("sync", 1, 1, True)
    bob.say(t="join", room=room, id=2**53 - 1)
    sync = bob.hear()
    assert (sync["id"], sync["count"], sync["users"]) == (2**53 - 1, 2, 2)
    states = {member["user"]: member["state"] for member in sync["members"]}
    assert states == {"alice": {"at": [1.5, -7, 2**53, True, None, "ж👩‍🚀"]}, "bob": {}}
    diff = alice.hear()
    assert (diff["t"], diff["joins"][0]["cid"], diff["count"]) == ("diff", his["cid"], 2)
    assert not {"updates", "leaves"} & diff.keys()

    bob.say(t="update", room=room, state={"x": 1}, id=3)
    answers = sorted((bob.hear(), bob.hear()), key=lambda message: str(message["t"]))
    assert [message["t"] for message in answers] == ["diff", "ok"]
    assert answers[1] == {"t": "ok", "id": 3, "v": 2}
    assert alice.hear()["updates"] == [{"cid": his["cid"], "state": {"x": 1}, "v": 2}]

    bob.say(t="publish", room=room, data=["hello", {}], id=4)
    at = bob.hear()["at"]
    assert alice.hear() == {
        "t": "message", "room": room, "cid": his["cid"], "user": "bob", "data": ["hello", {}], "at": at
    }  # fmt: skip
    bob.say(t="signal", room=room, key="cursor", data=[3, 4], id=5)
    assert alice.hear() == {
        "t": "signal", "room": room, "cid": his["cid"], "user": "bob", "key": "cursor", "data": [3, 4]
    }  # fmt: skip

    bob.say(t="members", room=room, limit=1, id=6)
    page = bob.hear()
    assert (page["t"], len(page["members"])) == ("page", 1)
    bob.say(t="nonsense", id=7)
    error = bob.hear()
    assert (error["t"], error["id"], error["code"]) == ("error", 7, "unknown_type")

    bob.say(t="leave", room=room, id=8)
    assert bob.hear() == {"t": "ok", "id": 8}
    assert alice.hear()["leaves"] == [{"cid": his["cid"], "user": "bob", "reason": "left"}]
    assert (alice.close(), bob.close()) == (1000, 1000)


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize(("hers", "his"), [(Wsproto, Wsproto), (Aiohttp, Aiohttp), (Wsproto, Aiohttp)])
async def test_a_whole_conversation(
    node: Node, hers: Callable[..., Talk], his: Callable[..., Talk], subprotocol: str
) -> None:
    room = f"{hers.__name__}-{his.__name__}-{subprotocol}"
    other = MSGPACK if hers is not his and subprotocol == JSON else subprotocol

    def talk() -> None:
        converse(hers(node.port, "alice", subprotocol), his(node.port, "bob", other), room)

    with anyio.fail_after(DEADLINE_S):
        await to_thread.run_sync(talk, abandon_on_cancel=True)


async def test_a_refusal_is_read_as_one(node: Node) -> None:
    def refused() -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S) as raw:
            ws = WSConnection(ConnectionType.CLIENT)
            raw.sendall(ws.send(Request(host="localhost", target="/ws", subprotocols=["nothing"])))
            status, body = 0, b""
            while data := raw.recv(4_096):
                ws.receive_data(data)
                for event in ws.events():
                    if isinstance(event, RejectConnection):
                        status = event.status_code
                    elif isinstance(event, RejectData):
                        body += event.data
            return status, body

    status, body = await to_thread.run_sync(refused, abandon_on_cancel=True)
    assert (status, json.loads(body)["status"]) == (400, 400)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(f"{node.http_url}/ws", protocols=["nothing"])
    assert refusal.value.status == 400
