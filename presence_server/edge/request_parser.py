"""The request that begins a connection, put together from the pieces in which it comes.

The only place that parses HTTP on the client port: another parser takes the place of this class and nothing else.
"""

from typing import TYPE_CHECKING, Final

from websockets.http11 import Request

from presence_server.edge.upgrade_refusals import HandshakeError

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

HEAD_BYTES_MAX: Final = 16_384
"""The longest request, with its line and all its headers."""


class NoRequestError(HandshakeError):
    """The client has sent something that is not HTTP."""

    def __init__(self) -> None:
        super().__init__(400, "this is not an HTTP/1.1 request")


class RequestTooLongError(HandshakeError):
    """The client has sent `HEAD_BYTES_MAX` and more without ending its request."""

    def __init__(self) -> None:
        super().__init__(431, f"the request is longer than {HEAD_BYTES_MAX} bytes")


class RequestParser:
    """Parses one request with the generator of a `ServerProtocol`, which goes on with frames after it."""

    __slots__ = ("_head_bytes", "_protocol")

    def __init__(self, protocol: "ServerProtocol") -> None:
        self._protocol = protocol
        self._head_bytes = 0
        """How much of the request has come."""

    def parse(self, data: bytes) -> tuple[Request, bytes] | None:
        """Return the request that `data` completes, and what follows it; None: it is not complete.

        Raises `NoRequestError` or `RequestTooLongError`; nothing more is parsed then.
        """
        # Line by line: the protocol would parse the bytes after the request as frames at once.
        protocol, start = self._protocol, 0
        while start < len(data):
            end = data.find(b"\n", start) + 1 or len(data)
            self._head_bytes += end - start
            if self._head_bytes > HEAD_BYTES_MAX:
                raise RequestTooLongError
            protocol.receive_data(data[start:end])
            if protocol.handshake_exc is not None:
                protocol.data_to_send()  # drops the answer of websockets
                raise NoRequestError
            for event in protocol.events_received():
                if isinstance(event, Request):
                    return event, data[end:]
            start = end
        return None
