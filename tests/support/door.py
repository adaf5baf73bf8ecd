"""The client port without sockets: real connections of a whole node, on transports that keep what is written."""

import asyncio
import json
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio.lowlevel

from presence_server.config.settings import (
    LimitsSettings,
    PresenceSettings,
    ProxySettings,
    Settings,
    ThrottleSettings,
)
from presence_server.core import NodeCore
from presence_server.edge.connection import Connection
from presence_server.edge.gate import Gate
from presence_server.edge.listener import Listener
from presence_server.edge.overload import Overload
from presence_server.edge.turns import Turns
from tests.support.handclock import HandClock
from tests.support.rawclient import CLOSE, TEXT, request, text

TURNS = 30
"""Turns of the loop after which everything that was to be done at once is done."""


class Transport(asyncio.Transport):
    """Keeps what is written; a client that does not read is one whose `full` is set."""

    def __init__(self, peer: str = "192.0.2.7", *, half_close: bool = True) -> None:
        super().__init__({"peername": (peer, 1234)})
        self.written = b""
        self.reading = True
        self.ended = False
        self.closed = False
        self.aborted = False
        self.waiting = 0
        self._half_close = half_close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written after the end"
        assert not self.is_closing(), "written to a closed socket"
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return self._half_close

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data, self.written = self.written, b""
        return data


@dataclass
class Heard:
    """A frame that the server has sent."""

    opcode: int
    payload: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The message in it."""
        fields: dict[str, Any] = json.loads(self.payload)
        return fields

    @property
    def code(self) -> int:
        """What a close frame says."""
        return int(struct.unpack("!H", self.payload[:2])[0])


def frames_in(data: bytes) -> list[Heard]:
    """Take apart what a server has written."""
    frames = []
    while data:
        length, start = data[1], 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        elif length == 127:
            (length,), start = struct.unpack("!Q", data[2:10]), 10
        frames.append(Heard(data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return frames


class Door:
    """A node's listener that accepts no sockets."""

    def __init__(
        self,
        *,
        limits: LimitsSettings | None = None,
        proxy: ProxySettings | None = None,
        throttle: ThrottleSettings | None = None,
        presence: PresenceSettings | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.clock = HandClock()
        settings = Settings(
            limits=limits or LimitsSettings(),
            proxy=proxy or ProxySettings(),
            presence=presence or PresenceSettings(),
            throttle=throttle or ThrottleSettings(connect="", messages="", concurrent_per_ip=0),
        )
        self.turns = Turns(loop)
        self.core = NodeCore(settings, self.clock, sheds_signal=lambda: False)
        self.gate = Gate(settings.throttle, settings.proxy, self.core.limiter, settings.presence.ttl_ms)
        self.listener = Listener(
            settings,
            hub=self.core.hub,
            directory=self.core.directory,
            authenticator=self.core.authenticator,
            gate=self.gate,
            turns=self.turns,
            overload=Overload(loop, settings.limits.overload_ms, float),
            clock=self.clock,
        )

    def accept(self, transport: Transport | None = None) -> "Socket":
        """Accept a socket that has said nothing yet."""
        return Socket(self, transport or Transport())

    async def enter(self, user: str = "ann", transport: Transport | None = None) -> "Socket":
        """Let a client in, welcomed."""
        socket = self.accept(transport)
        socket.send(request(f"/ws?user={user}"))
        await settle()
        head, _, rest = socket.transport.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        (welcome,) = frames_in(rest)
        socket.welcome = welcome.fields
        return socket

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.listener.stop()
        await settle()


class Socket:
    """A client's end of a connection."""

    def __init__(self, door: Door, transport: Transport) -> None:
        self.welcome: dict[str, Any] = {}
        self.transport = transport
        self.connection = Connection(door.listener)
        self.connection.connection_made(transport)

    def send(self, data: bytes) -> None:
        """Have the transport read something."""
        buffer = self.connection.get_buffer(len(data))
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def say(self, **fields: Any) -> None:
        """Send one message."""
        self.send(text(**fields))

    async def hear(self) -> list[Heard]:
        """Return the frames that have come, once all is done that was to be done at once."""
        await settle()
        return frames_in(self.transport.take())

    async def messages(self) -> list[dict[str, Any]]:
        """Return the messages that have come."""
        return [heard.fields for heard in await self.hear() if heard.opcode == TEXT]

    async def close_code(self) -> int | None:
        """Return the code of the close frame that has come, if one has, and nothing after it."""
        heard = await self.hear()
        codes = [number for number, frame in enumerate(heard) if frame.opcode == CLOSE]
        assert codes in ([], [len(heard) - 1]), heard
        return heard[-1].code if codes else None

    def stall(self) -> None:
        """Read nothing more, so that the transport is full."""
        self.connection.pause_writing()

    def read_on(self) -> None:
        """Read again."""
        self.connection.resume_writing()

    def lose(self) -> None:
        """Lose the socket."""
        self.connection.connection_lost(None)


async def settle() -> None:
    """Let the loop do what is to be done at once."""
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()


def status(transport: Transport) -> int:
    """Return the status of the HTTP answer that was written."""
    return int(transport.take().split(b" ", 2)[1])
