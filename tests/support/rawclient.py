"""A client made of bytes: HTTP requests and WebSocket frames of any shape, on a socket read only when asked.

    async with speaking(node.port, "/ws?user=alice") as alice:
        await alice.say(t="join", room="lobby", id=1)
        assert (await alice.hear())["t"] == "sync"

Pings are not answered, and a close frame is only by `ending`.
"""

import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
import msgpack

from tests.support.waiting import DEADLINE_S

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MSGPACK: Final = "presence.v1.msgpack"
KEY: Final = base64.b64encode(bytes(range(16))).decode()
UPGRADE: Final = {
    "Host": "presence.test",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
"""What a WebSocket request has at least (RFC 6455, 4.1)."""
DEFLATE_TAIL: Final = b"\x00\x00\xff\xff\x03\x00"
"""What a compressed message leaves out (RFC 7692, 7.2.2), and an empty last block."""

Fields = dict[str, Any]


class EndedError(Exception):
    """The server has ended the connection where more was awaited; `reset` says how."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


@dataclass(frozen=True)
class Response:
    """An HTTP answer. Names of headers are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> Fields:
        """The body of a refusal, checked to be a problem document (RFC 9457) of this status."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = json.loads(self.body)
        assert isinstance(problem, dict)
        assert problem.keys() >= {"type", "title", "status", "detail"}
        assert problem["status"] == self.status
        return problem


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int


@dataclass(frozen=True)
class Ending:
    """How the server ended a conversation; `code` is None where no close frame came."""

    messages: Sequence[Fields] = field(default_factory=list)
    code: int | None = None
    reason: str = ""
    reset: bool = False

    @property
    def bye(self) -> Fields | None:
        """The last message, if it is a `bye`; it says what the close frame says."""
        last = self.messages[-1] if self.messages else {}
        if last.get("t") != "bye":
            return None
        assert last["code"] == self.code
        return last


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """Make a frame of a client; `announced` is the length that it claims to have."""
    length = len(payload) if announced is None else announced
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65_536:
        head += struct.pack("!BH", mask_bit | 126, length)
    else:
        head += struct.pack("!BQ", mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = mask * (len(payload) // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


def text(**fields: Any) -> bytes:
    """Make a frame with one JSON message."""
    return frame(TEXT, json.dumps(fields).encode())


def request(
    path: str = "/ws",
    headers: Mapping[str, str | None] | None = None,
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    base: Mapping[str, str] = UPGRADE,
) -> bytes:
    """Make an HTTP request: `base`, changed by `headers`, of which None takes one away."""
    fields = {**base, **(headers or {})}
    lines = [f"{method} {path} {version}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class RawClient:
    """A TCP connection to a server on 127.0.0.1, with a deadline on everything that waits.

    `receive_bytes` is the socket's receive buffer: what a client that does not read takes all the same. `source` is
    the address that it comes from: any of 127.0.0.0/8, where the system has them all (Linux).
    """

    def __init__(self, port: int, *, receive_bytes: int | None = None, source: str = "") -> None:
        self.welcome: Fields = {}
        self.compressing = False
        self._port = port
        self._buffer = bytearray()
        self._codec = "presence.v1.json"
        self.socket = socket.socket()
        """Connected from `__aenter__` on, and not blocking."""
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            self.socket.bind((source, 0))

    @property
    def cid(self) -> str:
        """The connection's id, after `upgrade`."""
        return str(self.welcome["cid"])

    async def __aenter__(self) -> Self:
        with anyio.fail_after(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self._port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    # --- bytes ---

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; raises `EndedError` where the server takes none any more."""
        try:
            with anyio.fail_after(DEADLINE_S):
                await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except (ConnectionResetError, BrokenPipeError):
            raise EndedError(reset=True) from None

    def send_some(self, data: bytes) -> int:
        """Send what the socket takes now; return how much that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self) -> bytes:
        """Read what is there, at least one byte; raises `EndedError`."""
        # Where data is there already, `sock_recv` returns without giving other clients their turn.
        await anyio.lowlevel.checkpoint()
        try:
            with anyio.fail_after(DEADLINE_S):
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
        except ConnectionResetError:
            raise EndedError(reset=True) from None
        if not data:
            raise EndedError(reset=False)
        return data

    def end_writing(self) -> None:
        """Send a FIN, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Drop the connection with an RST, as a crashed machine's kernel does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self.receive()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _rest(self) -> bytes:
        """Read to the server's FIN."""
        data = b""
        while True:
            try:
                data += await self.receive()
            except EndedError as ended:
                if ended.reset:
                    raise
                return data

    # --- HTTP ---

    async def respond(self) -> Response:
        """Read an answer: to the end of its headers where it is an upgrade, else to the end."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self.receive()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self._buffer = bytearray(rest)
        if status != "101":
            self._buffer += await self._rest()
        return Response(int(status), reason, headers, b"" if status == "101" else bytes(self._buffer))

    async def ask(
        self,
        path: str = "/ws",
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
        base: Mapping[str, str] = UPGRADE,
    ) -> Response:
        """Send a request and read its answer."""
        await self.send(request(path, headers, method=method, version=version, base=base))
        return await self.respond()

    async def upgrade(self, path: str = "/ws", headers: Mapping[str, str | None] | None = None) -> Response:
        """Do the opening handshake and read the welcome."""
        response = await self.ask(path, headers)
        await self.open(response)
        return response

    async def open(self, response: Response) -> None:
        """Check the answer to an opening handshake, and read the welcome."""
        assert response.status == 101, response
        digest = hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455
        assert response.headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
        self.compressing = "permessage-deflate" in response.headers.get("sec-websocket-extensions", "")
        self._codec = response.headers.get("sec-websocket-protocol", self._codec)
        self.welcome = await self.hear()
        assert self.welcome["t"] == "welcome"

    # --- frames and messages ---

    async def frame(self) -> Frame:
        """Read one frame; a server's frames are not masked (RFC 6455, 5.1)."""
        first, second = await self._take(2)
        assert not second & 0x80
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._take(8))
        payload = await self._take(length)
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 0x07)

    async def say(self, **fields: Any) -> None:
        """Send one message."""
        if self._codec == MSGPACK:
            await self.send(frame(BINARY, msgpack.packb(fields)))
        else:
            await self.send(text(**fields))

    async def hear(self) -> Fields:
        """Read the next message; control frames in between are left unanswered."""
        while (received := await self.frame()).opcode in {PING, PONG}:
            pass
        return self._decoded(received)

    async def until(self, kind: str, **fields: Any) -> list[Fields]:
        """Read messages up to one of a type with these fields."""
        wanted = {"t": kind, **fields}.items()
        heard = [await self.hear()]
        while not wanted <= {key: heard[-1].get(key) for key in ("t", *fields)}.items():
            heard.append(await self.hear())
        return heard

    async def request(self, **fields: Any) -> Fields:
        """Send a message with an `id`, and read on to its answer."""
        await self.say(**fields)
        while (answer := await self.hear()).get("id") != fields["id"]:
            pass
        return answer

    async def ending(self, *, answering: bool = True) -> Ending:
        """Read on to the end of the connection, answering its close frame, and close."""
        messages: list[Fields] = []
        try:
            while (received := await self.frame()).opcode != CLOSE:
                if received.opcode not in {PING, PONG}:
                    messages.append(self._decoded(received))
        except EndedError as ended:
            return Ending(messages, reset=ended.reset)
        code = int.from_bytes(received.payload[:2]) if received.payload else 1005
        reason = received.payload[2:].decode()
        try:
            if answering:
                await self.send(frame(CLOSE, received.payload))
            more = bytes(self._buffer) + await self._rest()
        except EndedError:
            return Ending(messages, code, reason, reset=True)
        finally:
            self.socket.close()
        assert not more, f"after the close frame came {more!r}"
        return Ending(messages, code, reason)

    async def close(self, code: int = 1000) -> Ending:
        """Do the closing handshake."""
        await self.send(frame(CLOSE, struct.pack("!H", code)))
        return await self.ending(answering=False)

    def _decoded(self, received: Frame) -> Fields:
        assert received.fin
        payload = received.payload
        if received.rsv:
            assert received.rsv == 4
            assert self.compressing
            payload = zlib.decompress(payload + DEFLATE_TAIL, -zlib.MAX_WBITS)
        if self._codec == MSGPACK:
            assert received.opcode == BINARY
            message = msgpack.unpackb(payload)
        else:
            assert received.opcode == TEXT
            message = json.loads(payload)
        assert isinstance(message, dict)
        return message


@asynccontextmanager
async def speaking(
    port: int,
    path: str = "/ws",
    headers: Mapping[str, str | None] | None = None,
    *,
    receive_bytes: int | None = None,
    source: str = "",
) -> AsyncIterator[RawClient]:
    """Connect, and be welcomed; try again while the node is overloaded, as it may be on a slow machine."""
    deadline = anyio.current_time() + DEADLINE_S
    while True:
        async with RawClient(port, receive_bytes=receive_bytes, source=source) as client:
            response = await client.ask(path, headers)
            if (
                response.status != 503
                or b"overloaded" not in response.body
                or anyio.current_time() > deadline
            ):
                await client.open(response)
                yield client
                return
        await anyio.sleep(0.2)
