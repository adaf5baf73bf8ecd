"""What a request on the client port asks for, and the answers that are not an upgrade."""

import email.utils
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response

from presence_server.auth.identity import Credentials
from presence_server.errors import PresenceError
from presence_server.protocol.codec import CODECS, JSON, Codec
from presence_server.throttle.headers import PROBLEM_JSON, plain_problem

BEARER: Final = "bearer."
RESUME: Final = "resume."
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


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
    """The request is answered with an HTTP status instead of an upgrade.

    `problem` is the answer's body where the status does not say it all.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Sequence[tuple[str, str]] = (),
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.problem = problem

    def response(self) -> Response:
        """Return the answer, an `application/problem+json` (RFC 9457)."""
        status = HTTPStatus(self.status)
        body = msgspec.json.encode(self.problem or plain_problem(self.status, self.detail))
        return respond(status, PROBLEM_JSON, body, self.headers)


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


def read_upgrade(request: Request, origins: Sequence[str], *, same_origin: bool = False) -> Upgrade:
    """Read a WebSocket request.

    `origins` are those that may connect, or `*`; none of them: any may, or, with `same_origin`, pages of the host
    that they connect to. Raises `HandshakeError` with 400 or 403.
    """
    check_origin(request, origins, same_origin=same_origin)
    offered = offered_subprotocols(request)
    fields = parse_query(request)
    query = {name: values[0] for name, values in fields.items()}
    known = [name for name in offered if not name.startswith((BEARER, RESUME))]
    codec: Codec = JSON
    if known:
        codecs = [CODECS[name] for name in known if name in CODECS]
        if not codecs:
            raise HandshakeError(400, f"no subprotocol in common; there are {', '.join(CODECS)}")
        codec = codecs[0]
    # In this order; the first place that has a token is the one that counts.
    places = (_bearers(request), _entries(offered, BEARER), fields.get("token", []))
    tokens = next((found for found in places if found), [])
    credentials = Credentials(
        token=tokens[0] if tokens else None,
        user=query.get("user"),
        info=query.get("info"),
        repeated=len(tokens) > 1,
    )
    resume = next(iter(_entries(offered, RESUME)), None) or query.get("resume")
    return Upgrade(codec, codec.subprotocol if known else None, credentials, resume)


def check_origin(request: Request, origins: Sequence[str], *, same_origin: bool) -> None:
    """Raise `HandshakeError` with 403 unless the page may connect; a client without `Origin` is no page."""
    found = request.headers.get_all("Origin")
    if not found or "*" in origins or not (origins or same_origin):
        return
    allowed = found[0].lower() in origins if origins else _is_same_origin(request, found[0])
    if len(found) > 1 or not allowed:
        raise HandshakeError(403, f"pages from {found[0]} may not connect; see server.origins")


def _is_same_origin(request: Request, origin: str) -> bool:
    """Tell whether a page comes from the host that it connects to (RFC 6454, 5, but for the scheme).

    A proxy may have ended TLS, so the scheme is not known here; its default port is the page's.
    """
    hosts = request.headers.get_all("Host")
    try:
        page = urlsplit(origin.lower())
        here = urlsplit(f"//{hosts[0].lower()}" if len(hosts) == 1 else "")
        port = DEFAULT_PORTS.get(page.scheme)
        places = [(name.hostname, name.port or port) for name in (page, here)]
    except ValueError:
        return False
    return places[0] == places[1] and page.hostname is not None


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


def parse_query(request: Request) -> dict[str, list[str]]:
    """Return the query's fields, every value of each name."""
    try:
        fields = parse_qs(
            split_target(request)[1], keep_blank_values=True, errors="strict", max_num_fields=32
        )
    except ValueError as exc:
        raise HandshakeError(400, f"the query cannot be read: {exc}") from None
    return fields


def _bearers(request: Request) -> list[str]:
    split = (value.partition(" ") for value in request.headers.get_all("Authorization"))
    return [token.strip() for scheme, _, token in split if scheme.lower() == "bearer" and token.strip()]


def _entries(offered: Sequence[str], prefix: str) -> list[str]:
    return [name[len(prefix) :] for name in offered if name.startswith(prefix)]
