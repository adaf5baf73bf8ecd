"""The answers of the internal port to calls that it refuses: `application/problem+json` (RFC 9457)."""

from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from presence_server.api.schema import Problem
from presence_server.errors import PresenceError, RequestError
from presence_server.protocol.codes import ErrorCode

STATUS_OF: Final = {
    ErrorCode.INVALID_ROOM: 400,
    ErrorCode.BAD_MESSAGE: 400,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.ROOM_FULL: 409,
    ErrorCode.UNAVAILABLE: 503,
}
CONTENT_TYPE: Final = "application/problem+json"


class ProblemError(PresenceError):
    """The call is answered with `status`. `kind` tells apart what has one status; "": the status says it all."""

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "",
        headers: dict[str, str] | None = None,
        version: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = headers or {}
        self.version = version

    def response(self) -> Response:
        """Return the answer."""
        problem = Problem(
            type=f"urn:presence-server:{self.kind}" if self.kind else "about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            version=msgspec.UNSET if self.version is None else self.version,
        )
        return Response(msgspec.json.encode(problem), self.status, self.headers, CONTENT_TYPE)


def of_request_error(error: RequestError) -> ProblemError:
    """Return the problem for a refusal that clients' messages can have too."""
    status = STATUS_OF.get(ErrorCode(error.code), 500)
    return ProblemError(status, error.message, str(error.code), retry_header(status))


def unavailable(detail: str) -> ProblemError:
    """Return the problem of a store that is out of reach."""
    return ProblemError(503, detail, str(ErrorCode.UNAVAILABLE), retry_header(503))


def retry_header(status: int) -> dict[str, str]:
    """Return the header that says when to try again, where that can help."""
    return {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
