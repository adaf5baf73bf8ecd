"""One connection to a Redis with many commands in flight: replies come in order, each goes to a callback.

redis-py connects and authenticates (URL, TLS, ACL, database); then its transport is taken over. Its own reading costs
a task, a timer and several awaits for each reply, five times what a small reply costs here, and a reply can only be
awaited, not abandoned: a caller that gave up on one would have to close the connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.config.store_url import Address
from presence_server.faults import contain

if TYPE_CHECKING:
    from redis.asyncio import Connection

Reply = Any
OnReply = Callable[[Reply], None]
"""Gets a reply, the `hiredis.ReplyError` in its place, or a `ConnectionError` of redis-py where none will come."""
INCOMPLETE: Final = object()
log = logging.getLogger(__name__)
pack: Final = cast("Callable[[tuple[str | bytes | int, ...]], bytes]", hiredis.pack_command)


class MultiplexedConnection(asyncio.Protocol):
    """A connection that speaks RESP3.

    `on_push(message)` gets what the server says unasked: messages of channels, confirmations of subscriptions or the
    errors in their place. `on_lost()` is called once, when the connection has ended, whoever ended it, after every
    command in flight has been told. A callback that raises is reported and disturbs no other.
    """

    def __init__(
        self,
        connection: "Connection",
        on_push: Callable[[Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.address = Address(getattr(connection, "host", ""), getattr(connection, "port", 0))
        """The server's address; over a unix socket an empty one."""
        self.heard = False
        """Whether anything has come; the owner may set it back."""
        self._on_push = on_push
        self._on_lost = on_lost
        self._replies = hiredis.Reader(notEnoughData=INCOMPLETE)
        self._waiting: deque[OnReply] = deque()
        writer = connection._writer  # noqa: SLF001 - redis-py has no other way to its transport
        if writer is None:
            raise RedisConnectionError("the connection was lost before it was used")
        connection._reader = connection._writer = None  # noqa: SLF001 - it would complain of not being closed
        self._writer = writer  # closes the transport when it is collected
        self._transport: asyncio.WriteTransport = writer.transport
        self._transport.set_protocol(self)

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def send(self, packed: bytes, on_reply: OnReply) -> None:
        """Send one command that has one reply."""
        self._waiting.append(on_reply)
        self._transport.write(packed)

    def send_unanswered(self, *command: str | bytes | int) -> None:
        """Send a command whose answer is a push, such as SUBSCRIBE; an error in its place goes to `on_push` too."""
        self._transport.write(pack(command))

    async def ask(self, *command: str | bytes | int) -> Reply:
        """Run one command. Raises `hiredis.ReplyError`, or `ConnectionError` of redis-py where no reply comes."""
        if self.closing:
            raise RedisConnectionError("the connection is closed")
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        self.send(pack(command), on_reply)
        reply = await answered
        if isinstance(reply, Exception):
            raise reply
        return reply

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # --- called by the transport ---

    def data_received(self, data: bytes) -> None:
        """Hand out the replies and messages that `data` completes."""
        self.heard = True
        reader, waiting = self._replies, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not INCOMPLETE:
                if isinstance(reply, hiredis.PushNotification):
                    contain("limiter", self._on_push, reply)
                else:
                    contain("limiter", waiting.popleft() if waiting else self._on_push, reply)
        except hiredis.ProtocolError:
            log.exception("the store does not speak RESP3")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits, then the owner."""
        lost = RedisConnectionError(str(exc) if exc is not None else "the connection was closed")
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            contain("limiter", on_reply, lost)
        self._on_lost()
