"""The internal port's application: from HTTP to calls and back.

Paths are matched as they were sent: the framework would decode `%2F`, which a room's name may have, before.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Final
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from presence_server.api.callers import check_key, check_same_origin
from presence_server.api.calls import ROUTES, Calls
from presence_server.api.openapi import openapi_document
from presence_server.api.pages import DashboardPages
from presence_server.api.problems import ProblemError, of_request_error, unavailable
from presence_server.api.route_table import CheckedRequest, Table
from presence_server.api.route_table import Route as Call
from presence_server.auth.identity import IdentityError
from presence_server.errors import BansFullError, RequestError, StoreAwayError
from presence_server.logs import FloodLog
from presence_server.shutdown import CHECK_DRAINING
from presence_server.throttle.errors import StoreUnavailableError

BODY_BYTES_MAX: Final = 2**20
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
JSON: Final = "application/json"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
GUARDED: Final = frozenset(("/metrics", "/openapi.json"))
"""Pages that ask for no key, but for the same origin as calls do. Probes come with a pod's address as `Host`."""
WHOLE_MAX: Final = 2**53
"""Whole numbers below this limit are exact as floats."""

log = structlog.get_logger()
REFUSED: Final = frozenset((401, 403))
"""Statuses of callers that may not call at all, which they could repeat without end."""
_refused = FloodLog(__name__, "api calls refused")


class Api:
    """The ASGI application of `/v1/`.

    `keys()` gives the keys of which a caller must have one; none: there is no key, and only names of loopback are
    answered to, so that no web page can reach the port by a name of its own (DNS rebinding). `answered` is told of
    every answer: the method, the path as the table has it, and the status.
    """

    def __init__(
        self, calls: Calls, keys: Callable[[], Sequence[str]], answered: Callable[[str, str, int], None]
    ) -> None:
        self._calls = calls
        self._keys = keys
        self._table = Table(ROUTES)
        self._answered = answered

    @property
    def keyed(self) -> bool:
        """Whether calls need a key; decided once, when the node starts."""
        return bool(self._keys())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                response = await self._answer(request)
            except ClientDisconnect:
                return
            response.headers["X-Request-Id"] = request_id
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        """Return the answer, whatever happens; the log never has the path as it was sent: it may hold a token."""
        route: Call | None = None
        try:
            self._authorize(request.method, request.headers)
            route, parameters = self._table.find_route(request.method, _segments(request))
            asked = CheckedRequest(
                parameters, _query(route, request), await _body(route, request), request.headers
            )
            reply = await route.carry_out(self._calls, asked)
            body = b"" if reply.body is None else msgspec.json.encode(reply.body)
            response = Response(body, reply.status, reply.headers, JSON if reply.body is not None else None)
        except Exception as exc:  # noqa: BLE001 - the boundary of a call: it fails alone, and is logged
            response = _problem(exc).response()
        path = "/v1" if route is None else route.path
        self._answered(request.method if request.method in METHODS else "other", path, response.status_code)
        if route is None and response.status_code in REFUSED:
            _refused.note(method=request.method, status=response.status_code)
        elif route is None or not route.quiet or response.status_code >= 500:
            log.info("api call", method=request.method, path=path, status=response.status_code)
        return response

    def check_same_origin(self, method: str, headers: Headers) -> None:
        """Raise `ProblemError` for a web page that asks a port without a key, or by a name of its own."""
        if not self._keys():
            check_same_origin(method, headers)

    def _authorize(self, method: str, headers: Headers) -> None:
        self.check_same_origin(method, headers)
        keys = self._keys()
        if keys:
            check_key(headers, keys)


def check_framing(headers: Headers) -> None:
    """Refuse a request whose end two servers may see in two places (RFC 9112, 6.1)."""
    if "transfer-encoding" in headers and "content-length" in headers:
        closing = {"Connection": "close"}
        raise ProblemError(400, "Transfer-Encoding and Content-Length together", headers=closing)


def _problem(exc: Exception) -> ProblemError:
    if isinstance(exc, ClientDisconnect):
        raise exc
    if isinstance(exc, ProblemError):
        return exc
    if isinstance(exc, StoreAwayError | StoreUnavailableError):
        return unavailable(str(exc))
    if isinstance(exc, BansFullError):
        return ProblemError(409, str(exc), "bans_full")
    if isinstance(exc, RequestError):
        return of_request_error(exc)
    if isinstance(exc, IdentityError):
        return ProblemError(exc.status, exc.detail)
    log.exception("api call failed")
    return ProblemError(500, "the server failed; its log has more", "internal")


def _segments(request: Request) -> list[str]:
    """Return the path's parts, each percent-decoded by itself."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    try:
        parts = [unquote_to_bytes(part).decode() for part in raw.partition(b"?")[0].split(b"/")]
    except UnicodeDecodeError:
        raise ProblemError(400, "the path is not UTF-8") from None
    return parts[1:]


def _query(route: Call, request: Request) -> object:
    if route.query is None:
        if request.url.query:
            raise ProblemError(400, "this call has no query")
        return None
    try:
        fields = parse_qs(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request.url.query),
            errors="strict",
            max_num_fields=16,
        )
    except ValueError as exc:
        raise ProblemError(400, f"the query cannot be read: {exc}") from None
    repeated = [name for name, values in fields.items() if len(values) > 1]
    if repeated:
        raise ProblemError(400, f"{repeated[0]} is in the query more than once")
    try:
        return msgspec.convert(
            {name: values[0] for name, values in fields.items()}, route.query, strict=False, str_keys=True
        )
    except msgspec.ValidationError as exc:
        raise ProblemError(400, f"in the query: {exc}") from None


async def _body(route: Call, request: Request) -> object:
    if route.body is None:
        return None
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    payload = await read_body(request)
    if not payload and route.body_optional:
        return route.body()
    if content_type != JSON:
        # Also what a web page may send to anywhere without asking has another type.
        raise ProblemError(415, f"the body must be {JSON}", headers={"Accept": JSON})
    try:
        return msgspec.convert(_whole(msgspec.json.decode(payload), route.depth), route.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProblemError(400, f"in the body: {exc}", "bad_message") from None


def _whole(body: object, depth: int) -> object:
    """Return a body whose numbers such as 60.0 are whole: JSON, and JSON Schema, know no difference.

    What lies below `depth` levels is a document of the caller's, and stays.
    """
    if isinstance(body, float) and body.is_integer() and abs(body) < WHOLE_MAX:
        return int(body)
    if depth and isinstance(body, dict):
        return {name: _whole(value, depth - 1) for name, value in body.items()}
    if depth and isinstance(body, list):
        return [_whole(value, depth - 1) for value in body]
    return body


async def read_body(request: Request) -> bytes:
    """Return the body. Raises `ProblemError` with 413."""
    payload = bytearray()
    async for chunk in request.stream():
        payload += chunk
        if len(payload) > BODY_BYTES_MAX:
            raise ProblemError(413, f"the body is longer than {BODY_BYTES_MAX} bytes", "too_large")
    return bytes(payload)


def asks_leniently(request: Request) -> bool:
    """Tell whether a probe has `isolated=ok`. Raises `ProblemError` for any other value."""
    asked = request.query_params.getlist("isolated")
    if asked not in ([], ["ok"]):
        raise ProblemError(400, "isolated is ok, or left out")
    return bool(asked)


async def http_problem(request: Request, exc: Exception) -> Response:
    """Answer what the framework refuses."""
    del request
    if isinstance(exc, ProblemError):
        return exc.response()
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    headers = dict(exc.headers or {}) if isinstance(exc, HTTPException) else {}
    return ProblemError(status, str(getattr(exc, "detail", "")), headers=headers).response()


def pages_app(pages: Mapping[str, Callable[[Request], Awaitable[Response]]]) -> Starlette:
    """Make an application of pages that can be read, by path; what it refuses it answers with a problem."""
    refused = dict.fromkeys((HTTPException, ProblemError, Exception), http_problem)
    return Starlette(routes=[Route(path, page) for path, page in pages.items()], exception_handlers=refused)


class OpenPages:
    """The pages that need no key: probes, metrics, and the description of every call."""

    def __init__(
        self,
        checks: Callable[[], dict[str, str]],
        metrics: Callable[[], Awaitable[tuple[bytes, str]]],
        description: bytes,
    ) -> None:
        self._checks = checks
        self._metrics = metrics
        self._description = description
        self.app = pages_app(
            {
                "/healthz": self._healthz,
                "/readyz": self._readyz,
                "/openapi.json": self._openapi,
                "/metrics": self._metrics_page,
            }
        )

    async def _healthz(self, request: Request) -> Response:
        """Answer 200: the process's loop runs."""
        del request
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        """Answer 200 if everything is right, else 503 with what is not.

        `isolated=ok` asks whether the node can serve its own clients, which it can without the shared store.
        """
        is_lenient = asks_leniently(request)
        found = self._checks()
        wrong = {name for name, text in found.items() if text}
        serves = not wrong or (is_lenient and CHECK_DRAINING not in wrong)
        status = ("isolated" if wrong else "ready") if serves else "unready"
        body = {"status": status, "checks": {name: text or "ok" for name, text in found.items()}}
        return JSONResponse(body, 200 if serves else 503, {"Cache-Control": "no-store"})

    async def _openapi(self, request: Request) -> Response:
        """Answer with the description of every call."""
        del request
        return Response(self._description, 200, media_type=JSON)

    async def _metrics_page(self, request: Request) -> Response:
        """Answer with all metrics."""
        del request
        page, content_type = await self._metrics()
        return Response(page, 200, {"Content-Type": content_type})


@cache
def describe(version: str, *, keyed: bool) -> bytes:
    """Return the description of every call, which takes as long to make as all else of a node's start."""
    return msgspec.json.encode(openapi_document(ROUTES, version, keyed=keyed))


def make_app(
    api: Api,
    *,
    checks: Callable[[], dict[str, str]],
    metrics: Callable[[], Awaitable[tuple[bytes, str]]],
    version: str,
) -> ASGIApp:
    """Make the application of the internal port.

    `checks()` returns what is wrong with each thing that the node needs, "" where nothing is; `metrics()` returns
    a page and its type.
    """
    open_pages = OpenPages(checks, metrics, describe(version, keyed=api.keyed)).app
    dashboard = DashboardPages()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        # The framework's own mounting takes no path with a line end in it.
        app: ASGIApp = api if scope["type"] == "http" and scope["path"].startswith("/v1/") else open_pages
        try:
            check_framing(Headers(scope=scope))
            if scope["path"] in GUARDED or scope["path"] in dashboard:
                api.check_same_origin(scope["method"], Headers(scope=scope))
            if scope["path"] in dashboard:
                app = dashboard.answer(scope["path"], scope["method"], Headers(scope=scope))
        except ProblemError as refusal:
            app = refusal.response()
        await app(scope, receive, send)

    return answer
