"""The connection of a subscriber: redis-py connects it, then its transport is taken over.

redis-py's own reading goes through a stream, and several calls for each message; here the transport's callback parses
what one read brings. What has not been asked for yet waits, and above a limit the server has to.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.redis_io.multiplexed import INCOMPLETE, pack

if TYPE_CHECKING:
    from redis.asyncio import Connection

WAITING_MAX: Final = 256
"""Replies that wait to be read, above which the socket is not read."""


class TakenConnection(asyncio.Protocol):
    """A connection in RESP2 whose replies and messages are read one after the other."""

    def __init__(self, connection: "Connection") -> None:
        self._reader = hiredis.Reader(replyError=BaseParser.parse_error, notEnoughData=INCOMPLETE)
        self._replies: deque[Any] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._paused = False
        self._may_write = asyncio.Event()
        self._may_write.set()
        writer = connection._writer  # noqa: SLF001 - redis-py has no other way to its transport
        if writer is None:
            raise RedisConnectionError("the connection was lost before it was used")
        connection._reader = connection._writer = None  # noqa: SLF001 - it would complain of not being closed
        self._writer = writer  # closes the transport when it is collected
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)

    async def send_command(self, *command: str | bytes, check_health: bool) -> None:
        """Write one command. Raises `ConnectionError` of redis-py where the connection has ended."""
        del check_health
        if not self._may_write.is_set():
            await self._may_write.wait()
        if self._lost is not None:
            raise self._lost
        self._transport.write(pack(command))

    async def read_response(self, *, disable_decoding: bool, timeout: float) -> Any:  # noqa: ASYNC109 - redis-py's
        """Wait for what comes next. Raises an error that the server answered with, or what ended the connection."""
        del disable_decoding, timeout
        while not self._replies:
            if self._lost is not None:
                raise self._lost
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        reply = self._replies.popleft()
        if self._paused and not self._replies:
            self._paused = False
            self._transport.resume_reading()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, *, nowait: bool) -> None:
        """Close the connection at once."""
        del nowait
        self._transport.abort()

    # --- called by the transport ---

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not INCOMPLETE:
                self._replies.append(reply)
        except hiredis.ProtocolError as exc:
            self._lost = RedisConnectionError(f"the store does not speak RESP2: {exc}")
            self._transport.abort()
        if len(self._replies) > WAITING_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """Have the next command wait."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let it go on."""
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who reads, once what came before has been read."""
        if self._lost is None:
            self._lost = RedisConnectionError(str(exc) if exc is not None else "the connection was closed")
        self._may_write.set()
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)
