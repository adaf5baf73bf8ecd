"""The WebSocket handshake of RFC 6455: what a request must have, and the answer that accepts it.

A *plain handshake*, as browsers and other clients make them, is answered here. websockets decides about every other
one, and says what is wrong with it: that takes much longer.
"""

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Request as LibraryRequest
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from presence_server.edge.upgrade_refusals import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension, ServerExtensionFactory

    from presence_server.edge.request_parser import Request

UPGRADES: Final = frozenset(("upgrade", "keep-alive, upgrade"))
"""The `Connection` of plain handshakes, in lower case."""
KEY: Final = re.compile(r"[+/0-9A-Za-z]{22}==")
"""16 bytes in base64."""


class Acceptance(NamedTuple):
    """The `Sec-WebSocket-Accept` of a key, and the extensions that were negotiated, which `extensions_header` names."""

    accept: str
    extensions_header: str | None = None
    extensions: "Sequence[Extension]" = ()

    def answer(self, subprotocol: str | None) -> bytes:
        """Return the answer that completes the handshake (RFC 6455, 4.2.2)."""
        negotiated = ""
        if self.extensions_header is not None:
            negotiated += f"Sec-WebSocket-Extensions: {self.extensions_header}\r\n"
        if subprotocol is not None:
            negotiated += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {self.accept}\r\n{negotiated}\r\n"
        ).encode()


def negotiate(request: "Request", extensions: "Sequence[ServerExtensionFactory] | None") -> Acceptance:
    """Return the acceptance of a request. Raises `HandshakeError`."""
    key = _plain_key(request)
    if key is None or (extensions and "sec-websocket-extensions" in request.headers):
        return _negotiate_by_protocol(request, extensions)
    return Acceptance(accept_key(key))


def _plain_key(request: "Request") -> str | None:
    """Return the key of a plain handshake; None: it is not plain."""
    headers = request.headers
    try:
        (connection,) = headers["connection"]
        (upgrade,) = headers["upgrade"]
        (version,) = headers["sec-websocket-version"]
        (key,) = headers["sec-websocket-key"]
    except (KeyError, ValueError):
        return None
    is_plain = (
        request.method == "GET"
        and request.protocol == "HTTP/1.1"
        and connection.lower() in UPGRADES
        and upgrade.lower() == "websocket"
        and version == "13"
        and KEY.fullmatch(key) is not None
        and len(headers.get_all("Origin")) <= 1
    )
    return key if is_plain else None


def _negotiate_by_protocol(
    request: "Request", extensions: "Sequence[ServerExtensionFactory] | None"
) -> Acceptance:
    protocol = ServerProtocol(extensions=extensions)
    headers = Headers((name, value) for name, values in request.headers.items() for value in values)
    response = protocol.accept(LibraryRequest(request.path, headers, request.method, request.protocol))
    protocol.parser.close()  # its generator refers to the protocol: a cycle
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        extensions_header = response.headers.get("Sec-WebSocket-Extensions")
        return Acceptance(response.headers["Sec-WebSocket-Accept"], extensions_header, protocol.extensions)
    if protocol.handshake_exc is not None:
        # Its traceback refers to this frame, and through it to the error itself: a cycle.
        protocol.handshake_exc = protocol.handshake_exc.with_traceback(None)
    detail = response.body.decode().strip()
    kept = [(name, value) for name, value in response.headers.raw_items() if name in {"Allow", "Upgrade"}]
    # The detail repeats a part of a header that cannot be read, which may be a token.
    malformed = "a header of the WebSocket handshake cannot be read"
    logged = malformed if response.status_code == HTTPStatus.BAD_REQUEST else detail.partition("\n")[0]
    raise HandshakeError(response.status_code, detail, kept, logged=logged)
