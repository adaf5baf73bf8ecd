"""The load: raw sockets, blocking one by one or many on one epoll, that do as little as they can.

Frames are masked with a key of zeros, which leaves the payload as it is, so that masking costs the load
nothing and the server what it always does (RFC 6455, 5.3). What comes back is counted, and read only where it
must be.
"""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Final, Self

from bench.processes import Measured

TEXT: Final = 0x1
PING: Final = 0x9
PONG: Final = 0xA
FIN: Final = 0x80
MASKED: Final = 0x80
NO_MASK_KEY: Final = bytes(4)
DEADLINE_S: Final = 60
RECEIVE_BYTES: Final = 65_536
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: thousands of ports are free again at once, not a minute later."""


class LoadError(Exception):
    """The other side did not answer as it should; the measurement is void."""


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one masked frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", FIN | opcode, MASKED | size)
    else:
        head = struct.pack("!BBH", FIN | opcode, MASKED | 126, size)
    return head + NO_MASK_KEY + payload


def frame_bytes(payload: bytes) -> int:
    """Return how long a server's frame is."""
    size = len(payload)
    return size + (2 if size < 126 else 4 if size < 65_536 else 10)


class Frames:
    """Takes frames of a server out of a stream of bytes."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the opcode and payload of each frame that `data` completes."""
        buffer = self._buffer + data if self._buffer else data
        frames = []
        start = 0
        while len(buffer) - start >= 2:
            size, payload = buffer[start + 1], start + 2
            if size == 126:
                size, payload = int.from_bytes(buffer[payload : payload + 2], "big"), payload + 2
            elif size == 127:
                size, payload = int.from_bytes(buffer[payload : payload + 8], "big"), payload + 8
            if len(buffer) < payload + size:
                break
            frames.append((buffer[start] & 0x0F, buffer[payload : payload + size]))
            start = payload + size
        self._buffer = buffer[start:]
        return frames


class Connection:
    """One blocking TCP connection, with or without a WebSocket on it."""

    __slots__ = ("_frames", "sock")

    def __init__(self, to: Measured) -> None:
        self.sock = socket.create_connection((to.host, to.port), timeout=DEADLINE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._frames = Frames()

    def upgrade(self, to: Measured, user: str = "") -> None:
        """Make it a WebSocket."""
        self.ask_upgrade(to, user)
        self.receive_upgrade()

    def ask_upgrade(self, to: Measured, user: str = "", path: str = "") -> None:
        """Begin to make it a WebSocket: many may ask before the first one is answered."""
        self.sock.sendall(
            f"GET {path or f'/ws?user={user}'} HTTP/1.1\r\nHost: {to.host}:{to.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def receive_upgrade(self) -> None:
        """Wait until it is a WebSocket."""
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise LoadError(f"no upgrade: {answer.decode(errors='replace')}")
        self.texts(rest)

    def send(self, *messages: bytes) -> None:
        """Send messages, all in one write."""
        self.sock.sendall(b"".join(map(client_frame, messages)))

    def receive(self) -> bytes:
        """Return what has come, or wait for it."""
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise LoadError("the connection was closed")
        return data

    def texts(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes; answer pings."""
        messages = []
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                messages.append(payload)
            elif opcode == PING:
                self.sock.send(client_frame(payload, PONG))
            else:
                raise LoadError(f"a frame with opcode {opcode}: {payload!r}")
        return messages

    def receive_marked(self, *marks: bytes) -> None:
        """Wait until a message with each of these in it has come."""
        missing = set(marks)
        while missing:
            for message in self.texts(self.receive()):
                missing -= {mark for mark in missing if mark in message}

    def receive_syncs(self, amount: int) -> None:
        """Wait until so many rooms have been joined."""
        while amount > 0:
            amount -= sum(message.startswith(b'{"t":"sync"') for message in self.texts(self.receive()))

    def receive_texts(self, amount: int) -> None:
        """Wait until so many messages have come."""
        while amount > 0:
            amount -= len(self.texts(self.receive()))
        if amount:
            raise LoadError(f"{-amount} messages too many")

    def close(self) -> None:
        """Drop it."""
        self.sock.close()


class Crowd:
    """Many connections that one epoll reads."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._buffer = bytearray(RECEIVE_BYTES)
        self._synced = 0

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Read this one too, from now on."""
        connection.sock.setblocking(False)
        self._connections[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock, select.EPOLLIN)

    def connect(self, to: Measured, amount: int) -> None:
        """Add bare TCP connections."""
        for _ in range(amount):
            self.add(Connection(to))

    def join(self, to: Measured, amount: int, room_members: int) -> None:
        """Add members, so many to a room, and read until all is quiet."""
        for number in range(amount):
            connection = Connection(to)
            connection.upgrade(to, f"user-{number}")
            connection.send(b'{"t":"join","id":1,"room":"%s"}' % room_name(number // room_members))
            self.add(connection)
            self.converse(0)
        self.settle()
        if self._synced < amount:
            raise LoadError(f"{self._synced} of {amount} have joined")

    def come(self, to: Measured, joins: Sequence[bytes], at_once: int) -> None:
        """Connect a client for each of `joins` and send it, so many under way at a time; read until all have synced."""
        coming = iter(enumerate(joins))
        joined: dict[int, bytes] = {}
        """What a client sends once it is welcomed, by its socket."""
        begun = synced = 0
        while synced < len(joins):
            for number, join in islice(coming, at_once - (begun - synced)):
                connection = Connection(to)
                connection.ask_upgrade(to, f"user-{number}")
                self.add(connection)
                joined[connection.sock.fileno()] = join
                begun += 1
            events = self._epoll.poll(DEADLINE_S)
            if not events:
                raise LoadError(f"{synced} of {len(joins)} have joined")
            for fd, _ in events:
                connection = self._connections[fd]
                data = connection.receive()
                if fd in joined and data.startswith(b"HTTP/1.1 101"):
                    data = data.partition(b"\r\n\r\n")[2]
                for message in connection.texts(data):
                    if message.startswith(b'{"t":"welcome"'):
                        connection.send(joined.pop(fd))
                    synced += message.startswith(b'{"t":"sync"')

    def drop(self, connections: Sequence[Connection]) -> None:
        """Drop some."""
        for connection in connections:
            self._epoll.unregister(connection.sock)
            del self._connections[connection.sock.fileno()]
            connection.close()

    def replace(self, to: Measured, *messages: bytes) -> None:
        """Drop the oldest connection, and add one that sends some messages."""
        fd, oldest = next(iter(self._connections.items()))
        self._epoll.unregister(fd)
        del self._connections[fd]
        oldest.close()
        connection = Connection(to)
        connection.upgrade(to, "newcomer")
        connection.send(*messages)
        self.add(connection)

    def count(self, amount: int, size: int) -> None:
        """Wait until so many messages have come on each connection, each a frame of `size` bytes."""
        left = amount * size * len(self)
        receivers = {fd: connection.sock.recv_into for fd, connection in self._connections.items()}
        buffer = self._buffer
        poll = self._epoll.poll
        while left > 0:
            events = poll(DEADLINE_S)
            if not events:
                raise LoadError(f"{left} bytes did not come")
            for fd, _ in events:
                came = receivers[fd](buffer)
                if not came:
                    raise LoadError("a connection was closed")
                if came % size:  # a ping among them
                    came = sum(map(frame_bytes, self._connections[fd].texts(bytes(buffer[:came]))))
                left -= came
        if left:
            raise LoadError(f"{-left} bytes too many")

    def converse(self, wait_s: float) -> int:
        """Read what has come within `wait_s`, answer pings, and return how many bytes were messages."""
        size = 0
        for fd, _ in self._epoll.poll(wait_s):
            connection = self._connections[fd]
            for message in connection.texts(connection.receive()):
                self._synced += message.startswith(b'{"t":"sync"')
                size += frame_bytes(message)
        return size

    def settle(self, quiet_s: float = 1) -> int:
        """Converse until no message has come for `quiet_s`; return how many bytes there were."""
        total = 0
        quiet_at_s = time.monotonic() + quiet_s
        while (left_s := quiet_at_s - time.monotonic()) > 0:
            size = self.converse(left_s)
            if size:
                total += size
                quiet_at_s = time.monotonic() + quiet_s
        return total

    def idle(self, duration_s: float) -> None:
        """Do nothing for a while but answer pings."""
        end_s = time.monotonic() + duration_s
        while (left_s := end_s - time.monotonic()) > 0:
            self.converse(left_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._epoll.close()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.close()


def room_name(number: int) -> bytes:
    """Return the name of a room, equally long for any number."""
    return b"room-%06d" % number
