"""A real WebSocket server that says what a test tells it to: shows a client's half of the conversation."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import anyio
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from presence_server.client import Client, Event, connect
from presence_server.protocol.codec import JSON_SUBPROTOCOL
from tests.support import waiting

DEADLINE_S = waiting.DEADLINE_S
Fields = dict[str, Any]


class Conversation:
    """One connection, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def send(self, *messages: Fields) -> None:
        for message in messages:
            await self._socket.send(json.dumps(message))

    async def receive(self) -> Fields:
        with anyio.fail_after(DEADLINE_S):
            message = json.loads(await self._socket.recv())
        assert isinstance(message, dict)
        return message

    async def welcome(self, **changes: Any) -> None:
        await self.send(welcome(**changes))

    async def answer(self, **fields: Any) -> Fields:
        """Receive a request and answer it with `fields` and its `id`; returns the request."""
        request = await self.receive()
        await self.send({"id": request["id"], "room": request.get("room", ""), **fields})
        return request

    async def close(self, code: int, **bye: Any) -> None:
        if bye:
            await self.send({"t": "bye", "code": code, "reason": "told to", **bye})
        await self._socket.close(code, "told to")

    async def vanish(self) -> None:
        """End the connection without a close frame."""
        self._socket.transport.abort()
        await self._socket.wait_closed()

    async def until_closed(self) -> int | None:
        """Read on until the client closes; returns its close code."""
        with anyio.fail_after(DEADLINE_S):
            await self._socket.wait_closed()
        return self._socket.close_code


Script = Callable[[Conversation], Awaitable[object]]


class Refusal:
    """A handshake that is answered with a status."""

    def __init__(self, status: int, **headers: str) -> None:
        self.status = status
        self.headers = headers


class Peer:
    """Plays one script for each connection, in order; a connection too many fails the test.

    A script's exception comes out of the `async with` block.
    """

    _server: Server | None

    def __init__(self, *scripts: Script | Refusal) -> None:
        self.requests: list[Request] = []
        self._scripts = list(scripts)
        self._failures: list[Exception] = []
        self._server = None

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = next(iter(self._server.sockets)).getsockname()
        return f"ws://{host}:{port}/ws"

    @property
    def unplayed(self) -> int:
        return len(self._scripts)

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._play,
            "127.0.0.1",
            0,
            subprotocols=[JSON_SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
            process_request=self._admit,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        with anyio.CancelScope(shield=True), anyio.fail_after(DEADLINE_S):
            await self._server.wait_closed()
        for failure in self._failures:
            raise failure

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self._scripts:
            self._failures.append(AssertionError("one connection too many"))
            return connection.respond(HTTPStatus.GONE, "one connection too many")
        if isinstance(self._scripts[0], Refusal):
            refusal = self._scripts.pop(0)
            assert isinstance(refusal, Refusal)
            response = connection.respond(HTTPStatus(refusal.status), "refused by the script")
            for name, value in refusal.headers.items():
                response.headers[name.replace("_", "-")] = value
            return response
        return None

    async def _play(self, socket: ServerConnection) -> None:
        script = self._scripts.pop(0)
        assert not isinstance(script, Refusal)
        try:
            await script(Conversation(socket))
        except ConnectionClosed:
            return
        except Exception as exc:  # noqa: BLE001  # raised when the test leaves the block
            self._failures.append(exc)


def welcome(**changes: Any) -> Fields:
    fields = {
        "t": "welcome",
        "cid": "c-me",
        "user": "me",
        "info": {},
        "resumed": False,
        "resume": "token-1",
        "node": "n1",
        "ping_ms": 15000,
        "time": 1_700_000_000_000,
        "limits": {"message_bytes": 16384},
    }
    return fields | changes


def member(cid: str, user: str = "", **changes: Any) -> Fields:
    return {"cid": cid, "user": user or cid, "info": {}, "state": {}, "v": 1, "at": 1000} | changes


def sync(*members: Fields, **changes: Any) -> Fields:
    fields = {
        "t": "sync",
        "room": "lobby",
        "mode": "full",
        "you": True,
        "seq": 1,
        "count": len(members),
        "users": len({each["user"] for each in members}),
        "members": list(members),
        "cursor": None,
        "stale": False,
    }
    return fields | changes


def diff(seq: int = 2, **changes: Any) -> Fields:
    return {"t": "diff", "room": "lobby", "seq": seq, "count": 1, "users": 1} | changes


async def until(events: AsyncIterator[Event], kind: type[Event]) -> list[Event]:
    """Take events up to the first of a kind."""
    taken: list[Event] = []
    with anyio.fail_after(DEADLINE_S):
        async for event in events:
            taken.append(event)
            if isinstance(event, kind):
                break
    return taken


async def during(peer: Peer, body: Callable[[Client], Awaitable[None]]) -> None:
    """Do something with a client, for a limited time."""
    with anyio.fail_after(DEADLINE_S):
        async with connect(peer.url) as client:
            await body(client)


async def stay(talk: Conversation) -> None:
    await talk.welcome()
    await talk.until_closed()
