"""How clients of each kind of server speak: the path, what is said until one has joined, messages, pings."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

Conversation = Generator[bytes | None, bytes, None]
"""Yields what to send, or nothing, and is sent each message that comes; ends when the client has joined."""


def _until(*marks: bytes) -> Conversation:
    """Wait for a message that begins with one of these."""
    while not (yield None).startswith(marks):
        pass


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a client has to know of one kind of server."""

    path: Callable[[str, str], str]
    """Of a user and a room."""
    join: Callable[[str], Conversation]
    """What is said from the upgrade on until a client has joined a room; a server tells it who is there by then."""
    publish: Callable[[str, str], bytes]
    """The message that has a server tell a text to everybody in a room."""
    pongs: dict[bytes, bytes]
    """The answers to messages that only ask whether a client is alive."""


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _presence_join(room: str) -> Conversation:
    yield from _until(b'{"t":"welcome"')
    yield _json({"t": "join", "id": 1, "room": room, "state": {"name": "somebody"}})
    yield from _until(b'{"t":"sync"')


def _centrifuge_join(channel: str) -> Conversation:
    yield _json({"id": 1, "connect": {}})
    yield from _until(b'{"id":1,"connect"')
    yield _json({"id": 2, "subscribe": {"channel": channel}})
    yield from _until(b'{"id":2,"subscribe"')
    yield _json({"id": 3, "presence": {"channel": channel}})
    yield from _until(b'{"id":3,"presence"')


def _socketio_join(room: str) -> Conversation:
    yield from _until(b"0{")
    yield b"40"
    yield from _until(b"40{")
    yield b"420" + _json(["join", room])
    yield from _until(b"430[")


def _nothing(_: str) -> Conversation:
    yield from ()


PRESENCE_SERVER: Final = Dialect(
    path=lambda user, _: f"/ws?user={user}",
    join=_presence_join,
    publish=lambda room, text: _json({"t": "publish", "id": 7, "room": room, "data": text}),
    pongs={},
)
CENTRIFUGE: Final = Dialect(
    path=lambda user, _: f"/connection/websocket?user={user}",
    join=_centrifuge_join,
    publish=lambda room, text: _json({"id": 7, "publish": {"channel": room, "data": text}}),
    pongs={b"{}": b"{}"},
)
SOCKET_IO: Final = Dialect(
    path=lambda user, _: f"/socket.io/?EIO=4&transport=websocket&user={user}",
    join=_socketio_join,
    publish=lambda room, text: b"427" + _json(["publish", room, text]),
    pongs={b"2": b"3"},
)
CHANNELS: Final = Dialect(
    path=lambda _, room: f"/ws/chat/{room}/",
    join=_nothing,
    publish=lambda _, text: _json({"message": text}),
    pongs={},
)
WEBSOCKETS: Final = Dialect(
    path=lambda _, room: f"/{room}",
    join=_nothing,
    publish=lambda _, text: _json({"data": text}),
    pongs={},
)
