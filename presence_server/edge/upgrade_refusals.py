"""Refusals on the client port, as an HTTP answer or as a close code, and what every HTTP answer has in common."""

import email.utils
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

from presence_server.errors import PresenceError
from presence_server.protocol import codes
from presence_server.protocol.codes import CloseCode
from presence_server.protocol.messages import Bye
from presence_server.throttle.headers import PROBLEM_JSON, plain_problem

CLOSE_CODES_OF: Final = {
    401: codes.UNAUTHORIZED,
    403: codes.FORBIDDEN,
    429: codes.THROTTLED,
    503: codes.OVERLOADED,
}
"""The close code of each status; of any other it is 4000."""


class HandshakeError(PresenceError):
    """The request is answered with an HTTP status instead of an upgrade, or with `close` after one.

    `problem` is the answer's body where the status does not say it all; `logged` is what the log says where the detail
    repeats what the client sent, which may be a token.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Sequence[tuple[str, str]] = (),
        problem: Mapping[str, Any] | None = None,
        close: CloseCode | None = None,
        *,
        logged: str = "",
    ) -> None:
        super().__init__(detail)
        self.logged = logged or detail
        self.status = status
        self.detail = detail
        self.headers = headers
        self.problem = problem
        self.close = close or CLOSE_CODES_OF.get(status, codes.MALFORMED)

    def bye(self) -> Bye:
        """Return the `bye` for a client that cannot read a status. It has details only where the client is at fault."""
        reason = self.detail if self.close is codes.MALFORMED else self.close.reason
        waits = [int(value) for name, value in self.headers if name == "Retry-After"]
        return Bye(self.close.code, reason, waits[0] * 1_000 if waits else None)

    def response(self) -> Response:
        """Return the answer, an `application/problem+json` (RFC 9457)."""
        status = HTTPStatus(self.status)
        body = msgspec.json.encode(self.problem or plain_problem(self.status, self.detail))
        return respond(status, PROBLEM_JSON, body, self.headers)


class OriginError(HandshakeError):
    """A page of `origin` may not connect to `host`; `logged` says what an operator can do about it."""

    def __init__(self, origin: str, host: str, logged: str) -> None:
        super().__init__(403, f"pages from {origin} may not connect; see server.origins", logged=logged)
        self.origin = origin
        self.host = host


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
