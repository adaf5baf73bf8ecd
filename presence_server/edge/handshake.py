"""What a request on the client port asks for, and the answers that are not an upgrade."""

import email.utils
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response

from presence_server.auth import Credentials
from presence_server.errors import PresenceError
from presence_server.protocol.codec import CODECS, JSON, Codec

BEARER: Final = "bearer."
RESUME: Final = "resume."


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request for a WebSocket: how it will speak, who it says it is, and what it continues.

    `subprotocol` is what the answer names; None where the client offered none.
    """

    codec: Codec
    subprotocol: str | None
    credentials: Credentials
    resume: str | None


class HandshakeError(PresenceError):
    """The request is answered with an HTTP status instead of an upgrade."""

    def __init__(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def response(self) -> Response:
        """Return the answer, an `application/problem+json` (RFC 9457)."""
        status = HTTPStatus(self.status)
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": self.detail,
        }
        body = msgspec.json.encode(problem)
        return respond(status, "application/problem+json", body, self.headers)


def respond(
    status: HTTPStatus, content_type: str, body: bytes, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """Make a plain HTTP answer, after which the connection is closed."""
    fields = Headers(
        [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", content_type),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ]
    )
    return Response(status.value, status.phrase, fields, body)


def read_upgrade(request: Request, origins: Sequence[str]) -> Upgrade:
    """Read a WebSocket request. `origins` are those that may connect, or `*`; none of them: any may.

    Raises `HandshakeError` with 400 or 403.
    """
    check_origin(request, origins)
    offered = offered_subprotocols(request)
    query = parse_query(request)
    known = [name for name in offered if not name.startswith((BEARER, RESUME))]
    codec: Codec = JSON
    if known:
        codecs = [CODECS[name] for name in known if name in CODECS]
        if not codecs:
            raise HandshakeError(400, f"no subprotocol in common; there are {', '.join(CODECS)}")
        codec = codecs[0]
    credentials = Credentials(
        token=_bearer(request) or _entry(offered, BEARER) or query.get("token"),
        user=query.get("user"),
        info=query.get("info"),
    )
    resume = _entry(offered, RESUME) or query.get("resume")
    return Upgrade(codec, codec.subprotocol if known else None, credentials, resume)


def check_origin(request: Request, origins: Sequence[str]) -> None:
    """Raise `HandshakeError` with 403 unless the page may connect; a client without `Origin` is no page."""
    found = request.headers.get_all("Origin")
    if not found or not origins or "*" in origins:
        return
    if len(found) > 1 or found[0].lower() not in origins:
        raise HandshakeError(403, f"pages from {found[0]} may not connect; see server.origins")


def offered_subprotocols(request: Request) -> list[str]:
    """Return the subprotocols that the client offers, in its order."""
    try:
        return [
            name
            for value in request.headers.get_all("Sec-WebSocket-Protocol")
            for name in parse_subprotocol(value)
        ]
    except InvalidHeaderFormat as exc:
        raise HandshakeError(400, str(exc)) from None


def split_target(request: Request) -> tuple[str, str]:
    """Return the path and the query of a request in origin form (RFC 9112, 3.2.1), which all of ours are."""
    path, _, query = request.path.partition("?")
    return path, query


def parse_query(request: Request) -> dict[str, str]:
    """Return the query's fields, the first of each name."""
    try:
        fields = parse_qs(
            split_target(request)[1], keep_blank_values=True, errors="strict", max_num_fields=32
        )
    except ValueError as exc:
        raise HandshakeError(400, f"the query cannot be read: {exc}") from None
    return {name: values[0] for name, values in fields.items()}


def _bearer(request: Request) -> str | None:
    for value in request.headers.get_all("Authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    return None


def _entry(offered: Sequence[str], prefix: str) -> str | None:
    return next((name[len(prefix) :] for name in offered if name.startswith(prefix)), None)
