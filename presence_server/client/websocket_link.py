"""One WebSocket connection: messages out, messages in, replies matched to requests by `id`."""

from itertools import count
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from presence_server.client.errors import ClientError, ConnectionLost, ProtocolViolation, RequestFailed
from presence_server.client.message_codec import Incoming, MessageCodec, RosterPage, RosterSync
from presence_server.protocol.codes import ABNORMAL, ErrorCode
from presence_server.protocol.messages import ClientMessage, Error, Ok, Pong

if TYPE_CHECKING:
    from presence_server.client.websocket import WebSocket

Reply = Ok | RosterSync | RosterPage | Pong
R = TypeVar("R", Ok, RosterSync, RosterPage, Pong)


class _Waiter:
    """A request whose reply has not come yet."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: Reply | ClientError | None = None

    def resolve(self, outcome: Reply | ClientError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()


class WebSocketLink:
    """A connection while it lasts; once it is gone, every method that talks raises `ConnectionLost`.

    `message_bytes_max` is the server's limit, 0 until its welcome named one.
    """

    def __init__(self, socket: "WebSocket", codec: MessageCodec) -> None:
        self.message_bytes_max = 0
        self._socket = socket
        self._codec = codec
        self._ids = count(1)
        self._waiting: dict[int, _Waiter] = {}
        self._gone: ClientError | None = None

    @property
    def close_code(self) -> int:
        """The code that the connection was closed with, 1006 where there was none."""
        code = self._socket.close_code
        return ABNORMAL.code if code is None else code

    @property
    def close_reason(self) -> str:
        """The reason that came with the code."""
        return self._socket.close_reason

    async def next_message(self) -> Incoming | None:
        """Wait for the next message; None once the connection ended, in whatever way.

        Raises `ProtocolViolation` for what is not a message; skips types that only a newer server knows.
        """
        while (payload := await self._socket.receive()) is not None:
            message = self._codec.decode(payload)
            if message is not None:
                return message
        return None

    async def send(self, message: ClientMessage) -> None:
        """Send a message; raises `RequestFailed` (`too_large`) rather than being closed with 1009 for it."""
        payload = self._codec.encode(message)
        if self._gone is not None:
            raise self._gone
        if self.message_bytes_max and len(payload) > self.message_bytes_max:
            raise RequestFailed(
                ErrorCode.TOO_LARGE, f"{len(payload)} bytes; the server takes {self.message_bytes_max}"
            )
        try:
            await self._socket.send(payload, is_text=self._codec.is_text)
        except ConnectionLost as exc:
            raise self._lost() from exc

    async def request(self, message: ClientMessage, kind: type[R]) -> R:
        """Send a message and return its reply; raises `RequestFailed` or `ConnectionLost`."""
        number = next(self._ids)
        waiter = self._waiting[number] = _Waiter()
        try:
            await self.send(msgspec.structs.replace(message, id=number))
            await waiter.done.wait()
        finally:
            del self._waiting[number]
        if isinstance(waiter.outcome, ClientError):
            raise waiter.outcome
        if not isinstance(waiter.outcome, kind):
            raise ProtocolViolation(f"{type(waiter.outcome).__name__} in reply to {type(message).__name__}")
        return waiter.outcome

    def reply(self, message: Reply | Error) -> None:
        """Hand a reply to the request that it is for; one without a request is nobody's."""
        waiter = self._waiting.get(message.id) if isinstance(message.id, int) else None
        if waiter is not None:
            waiter.resolve(_failure(message) if isinstance(message, Error) else message)

    def drop(self, error: ClientError) -> None:
        """Say that the connection is gone: fails every request that waits, and those to come."""
        if self._gone is None:
            self._gone = error
        for waiter in self._waiting.values():
            waiter.resolve(self._gone)

    def _lost(self) -> ClientError:
        return self._gone or ConnectionLost("the connection ended")

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection and wait until it is closed."""
        await self._socket.close(code, reason)


def _failure(error: Error) -> RequestFailed:
    return RequestFailed(error.code, error.message, v=error.v, retry_after_ms=error.retry_after_ms)
