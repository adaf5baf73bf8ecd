"""Clients of any kind of server, many on one epoll, each in the conversation that its dialect has."""

import contextlib
import select
import time
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Self

from bench.dialects import Conversation, Dialect
from bench.load import DEADLINE_S, Connection, LoadError
from bench.processes import Measured


class Visitor:
    """One client. `joined` once its conversation is over."""

    __slots__ = ("_conversation", "_dialect", "_head", "connection", "joined", "to")

    def __init__(self, to: Measured, dialect: Dialect, user: str, room: str) -> None:
        self.connection = Connection(to)
        self.connection.ask_upgrade(to, path=dialect.path(user, room))
        self.to = to
        self.joined = False
        self._dialect = dialect
        self._head: bytes | None = b""
        self._conversation: Conversation = dialect.join(room)

    def receive(self) -> list[bytes]:
        """Read what has come, answer what has to be answered, and return the messages that are news."""
        data = self.connection.receive()
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return []
            if b" 101 " not in head.partition(b"\r\n")[0]:
                raise LoadError(f"no upgrade: {head.decode(errors='replace')}")
            self._head = None
            self._say(None)
        news = []
        for text in self.connection.texts(data):
            for message in text.split(b"\n"):
                pong = self._dialect.pongs.get(message)
                if pong is not None:
                    self.connection.send(pong)
                elif self.joined:
                    news.append(message)
                else:
                    self._say(message)
        return news

    def _say(self, message: bytes | None) -> None:
        """Go on with the conversation: `None` begins it."""
        try:
            answer = next(self._conversation) if message is None else self._conversation.send(message)
            while answer is not None:
                self.connection.send(answer)
                answer = next(self._conversation)
        except StopIteration:
            self.joined = True


class Hall:
    """One epoll for the clients of many servers: whoever waits for some answers the pings of all.

    `lost` has clients whose connection has ended, with the reason.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._visitors: dict[int, Visitor] = {}
        self.lost: dict[Visitor, str] = {}

    def enter(self, visitor: Visitor) -> None:
        """Read this one too, from now on."""
        sock = visitor.connection.sock
        sock.setblocking(False)
        self._visitors[sock.fileno()] = visitor
        self._epoll.register(sock, select.EPOLLIN)

    def leave(self, visitor: Visitor) -> None:
        """Drop one."""
        if self._visitors.pop(visitor.connection.sock.fileno(), None) is not None:
            visitor.connection.close()

    def read(self, wait_s: float = DEADLINE_S) -> list[tuple[Visitor, list[bytes]]]:
        """Return what has come within `wait_s`, and to whom."""
        read = []
        for fd, _ in self._epoll.poll(wait_s):
            visitor = self._visitors[fd]
            try:
                read.append((visitor, visitor.receive()))
            except (LoadError, OSError) as exc:
                self.lost[visitor] = str(exc)
                self.leave(visitor)
        return read


class Visitors:
    """Clients of one server."""

    def __init__(self, hall: Hall, to: Measured, dialect: Dialect) -> None:
        self._hall = hall
        self._to = to
        self._dialect = dialect
        self._visitors: set[Visitor] = set()

    def come(self, rooms: Sequence[str], at_once: int) -> None:
        """Have a client connect and join each of these rooms, so many under way at a time."""
        coming = iter(enumerate(rooms))
        under_way: set[Visitor] = set()
        deadline = Deadline()
        while True:
            for number, room in islice(coming, at_once - len(under_way)):
                visitor = Visitor(self._to, self._dialect, f"user-{number}", room)
                under_way.add(visitor)
                self._visitors.add(visitor)
                self._hall.enter(visitor)
            if not under_way:
                return
            self._read(deadline.left_s())
            joined = {visitor for visitor in under_way if visitor.joined}
            if joined:
                under_way -= joined
                deadline = Deadline()

    def send(self, *messages: bytes) -> None:
        """Have one client send messages, all in one write."""
        next(iter(self._visitors)).connection.send(*messages)

    def count(self, mark: bytes, each: int) -> None:
        """Wait until `mark` has come so often to each client."""
        left = each * len(self._visitors)
        deadline = Deadline()
        while left > 0:
            for messages in self._read(deadline.left_s()):
                came = sum(message.count(mark) for message in messages)
                if came:
                    left -= came
                    deadline = Deadline()
        if left:
            raise LoadError(f"{-left} messages too many")

    def settle(self, quiet_s: float = 0.5) -> None:
        """Converse until no client has been told anything for `quiet_s`; 0: read what is there."""
        quiet_at_s = time.monotonic() + quiet_s
        while True:
            read = self._read(max(0, quiet_at_s - time.monotonic()))
            if any(read):
                quiet_at_s = time.monotonic() + quiet_s
            elif not read and time.monotonic() >= quiet_at_s:
                return

    def _read(self, wait_s: float) -> list[list[bytes]]:
        """Return what each of these clients has been told; raises `LoadError` where one has lost its connection."""
        read = [messages for visitor, messages in self._hall.read(wait_s) if visitor in self._visitors]
        for visitor, reason in self._hall.lost.items():
            if visitor in self._visitors:
                raise LoadError(f"a client of {visitor.to.name}: {reason}")
        return read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for visitor in self._visitors:
            self._hall.lost.pop(visitor, None)
            with contextlib.suppress(OSError):
                self._hall.leave(visitor)


class Deadline:
    """The end of waiting for something; raises `LoadError` when it has passed."""

    def __init__(self) -> None:
        self._at_s = time.monotonic() + DEADLINE_S

    def left_s(self) -> float:
        """Return how long is left."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise LoadError(f"nothing more has come for {DEADLINE_S} s")
        return left_s
