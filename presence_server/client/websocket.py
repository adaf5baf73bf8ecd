"""One WebSocket, by the package `websockets`.

The first connection loads this module, and nothing else of the client imports `websockets`: to load it, with `asyncio`
and `ssl`, takes longer than all the rest of the client.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from presence_server.client.errors import ConnectionLost, HandshakeFailed, HandshakeRefused

if TYPE_CHECKING:
    from ssl import SSLContext

OPEN_DEADLINE_S = 10
CLOSE_DEADLINE_S = 5
KEEPALIVE_S = 20
"""Between own pings, and how long one may go unanswered: finds a server that is gone without a word."""
MESSAGE_BYTES_MAX = 16 * 2**20
"""The largest message from a server: 1,000 members with full `state` and `info` are about 6 MiB."""


class WebSocket:
    """A connection that was opened, and raises nothing of `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @property
    def close_code(self) -> int | None:
        """The code that it was closed with; None where there was none."""
        return self._connection.close_code

    @property
    def close_reason(self) -> str:
        """The reason that came with the code."""
        return self._connection.close_reason or ""

    async def receive(self) -> bytes | None:
        """Wait for the next message; None once the connection has ended, in whatever way."""
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed:
            return None

    async def send(self, payload: bytes, *, is_text: bool) -> None:
        """Send a message; raises `ConnectionLost`."""
        try:
            await self._connection.send(payload, text=is_text)
        except ConnectionClosed as exc:
            raise ConnectionLost("the connection ended") from exc

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection and wait until it is closed."""
        await self._connection.close(code, reason)


async def open_websocket(
    url: str,
    subprotocols: Sequence[str],
    headers: Mapping[str, str],
    ssl: "SSLContext | None",
    proxy: str | None,
) -> WebSocket:
    """Connect. Raises `OSError`, `HandshakeRefused` for an HTTP status, and `HandshakeFailed` for other answers."""
    options: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
    try:
        connection = await connect(
            url,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            additional_headers=headers,
            proxy=proxy,
            open_timeout=OPEN_DEADLINE_S,
            close_timeout=CLOSE_DEADLINE_S,
            ping_interval=KEEPALIVE_S,
            ping_timeout=KEEPALIVE_S,
            max_size=MESSAGE_BYTES_MAX,
            **options,
        )
    except InvalidStatus as exc:
        response = exc.response
        detail = response.body.decode(errors="replace") if response.body else response.reason_phrase
        raise HandshakeRefused(response.status_code, detail, response.headers.get("Retry-After")) from exc
    except InvalidHandshake as exc:
        raise HandshakeFailed(str(exc)) from exc
    return WebSocket(connection)
