"""A network between one node and its store that fails as networks do: it cuts, hangs and loses.

async with Proxy(server) as network:
    node = Node(tmp_path, "--redis.url", network.url)
    network.cut()
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tests.support.redis_server import RedisServer

BUFFER_BYTES = 1 << 24
MANY = b"*%~>"
"""Replies that hold others: arrays, maps, sets and pushes."""


class Link:
    """One connection through the proxy. `subscriber` is whether it has subscribed to anything."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.subscriber = False
        self.held = False
        """Whether its answers are kept back."""

    def abort(self) -> None:
        """End it without a word."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Forwards to a server on a unix socket. `eaten(message)` says which published messages get lost.

    `one_way_s` is how long each way takes.
    """

    def __init__(self, server: RedisServer, one_way_s: float = 0) -> None:
        self.url = ""
        self._one_way_s = one_way_s
        self.eaten: Callable[[bytes], bool] = lambda message: False
        self._path = server.url.removeprefix("unix://")
        self._links: set[Link] = set()
        self._refused: Callable[[Link], bool] = lambda link: False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._late_command = self._unanswered_command = b""
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=BUFFER_BYTES)
        port: int = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._listener.close()
        self.cut()
        self._flowing.set()
        self._released.set()
        await self._listener.wait_closed()

    def cut(self) -> None:
        """End every connection, and every new one at once."""
        self._refuse(lambda link: True)

    def cut_subscribers(self) -> None:
        """End the connections that subscribe, and only them."""
        self._refuse(lambda link: link.subscriber)

    def hang(self) -> None:
        """Keep every connection open, accept new ones, and let nothing through."""
        self._flowing.clear()

    def hold_command(self, part: bytes) -> None:
        """Keep back what has `part` in it, until `release_commands`; its connection may end meanwhile."""
        self._late_command = part

    def release_commands(self) -> None:
        """Let the server have what was kept back."""
        self._late_command = b""
        self._released.set()

    def hold_answers_to(self, part: bytes) -> None:
        """Let nothing back on a connection from when something with `part` in it is sent over it."""
        self._unanswered_command = part

    def cut_held(self) -> None:
        """End the connections whose answers are kept back."""
        self._unanswered_command = b""
        for link in self._links:
            if link.held:
                link.abort()

    def heal(self) -> None:
        """Let everything through again."""
        self._refused = lambda link: False
        self._flowing.set()

    def _refuse(self, refused: Callable[[Link], bool]) -> None:
        self._refused = refused
        for link in self._links:
            if refused(link):
                link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            from_server, to_server = await asyncio.open_unix_connection(self._path, limit=BUFFER_BYTES)
            link = Link(writer, to_server)
            self._links.add(link)
            if self._refused(link):
                link.abort()
            ways = (self._ask(link, reader, to_server), self._answer(link, from_server, writer))
            await asyncio.gather(*ways, return_exceptions=True)
            link.abort()
            self._links.discard(link)
        writer.transport.abort()

    async def _ask(self, link: Link, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            link.subscriber = link.subscriber or b"SUBSCRIBE" in data
            link.held = link.held or (bool(self._unanswered_command) and self._unanswered_command in data)
            if self._late_command and self._late_command in data:
                await self._released.wait()
            if self._refused(link):
                break
            await self._pass_on(to_server, data)
        link.abort()

    async def _answer(self, link: Link, reader: asyncio.StreamReader, to_node: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while reply := await _reply(reader):
                await self._flowing.wait()
                if link.held:
                    continue
                if not (link.subscriber and b"\r\nmessage\r\n" in reply[:32] and self.eaten(reply)):
                    await self._pass_on(to_node, reply)
        link.abort()

    async def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._one_way_s:
            asyncio.get_running_loop().call_later(self._one_way_s, writer.write, data)
        else:
            writer.write(data)
            await writer.drain()


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """Read one whole reply, in RESP2 or RESP3."""
    line = await reader.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind in (b"$", b"=") and int(rest) >= 0:
        return line + await reader.readexactly(int(rest) + 2)
    if kind and kind in MANY and int(rest) > 0:
        number = int(rest) * (2 if kind == b"%" else 1)
        return line + b"".join([await _reply(reader) for _ in range(number)])
    return line
