"""The exceptions that a client raises.

PresenceError
└── ClientError
    ├── RequestFailed         the server refused one request; the connection goes on
    ├── ConnectionLost        the connection ended under a request; the client reconnects by itself
    ├── ClientClosed          the client was closed; it will not connect again
    ├── ConnectionRefused     the handshake was refused in a way that trying again cannot help
    ├── ConnectionEnded       the server closed the connection and said not to come back as is
    └── ProtocolViolation     what came is not this protocol

The last three end the client: they come out of `async with connect(...)`. `HandshakeRefused` and `HandshakeFailed`
stay inside: the client tries again after them, or ends with `ConnectionRefused`.
"""

from presence_server.errors import PresenceError


class ClientError(PresenceError):
    """Base of everything that a client raises on purpose."""


class RequestFailed(ClientError):  # noqa: N818  # a past event, like the protocol's own words for it
    """The server refused a request.

    `code` is one of the protocol's error codes; `v` the member's present version after a `conflict`;
    `retry_after_ms` when to try again after `throttled`.
    """

    def __init__(
        self, code: str, message: str, *, v: int | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.v = v
        self.retry_after_ms = retry_after_ms


class ConnectionLost(ClientError):  # noqa: N818  # as above
    """There is no connection, or it ended before the reply: the request may have been carried out."""


class ClientClosed(ClientError):  # noqa: N818  # as above
    """The client was closed."""


class ConnectionRefused(ClientError):  # noqa: N818  # as above
    """The handshake was refused: bad credentials, a wrong path, an origin that is not allowed.

    `status` is the HTTP status, `detail` what the server said.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status = status
        self.detail = detail


class ConnectionEnded(ClientError):  # noqa: N818  # as above
    """The server closed the connection with a code that says not to reconnect as is."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}: {reason}")
        self.code = code
        self.reason = reason


class ProtocolViolation(ClientError):  # noqa: N818  # as above
    """The other end does not speak this protocol."""


class HandshakeRefused(Exception):  # noqa: N818  # as above
    """A server answered the handshake with an HTTP status; the client decides from it whether to try again.

    `detail` is what the server said, `retry_after` its header of that name.
    """

    def __init__(self, status: int, detail: str, retry_after: str | None) -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class HandshakeFailed(ConnectionError):  # noqa: N818  # as above
    """What answered the handshake is no WebSocket server; the client tries again."""
