"""Limits as dependencies of FastAPI, for each route and method.

    app = FastAPI(lifespan=...)
    answer_with_problems(app)

    @app.post("/mails", dependencies=[Depends(limited("5/60s", limiter=limiter))])
    async def send(mail: Mail) -> None: ...

Needs nothing but Starlette, for whose applications `answer_with_problems` is, too.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from presence_server.throttle.address import ClientAddresses
from presence_server.throttle.asgi import TRY_AGAIN_LATER
from presence_server.throttle.counted import Counted
from presence_server.throttle.decorators import Cost, Exempt, Key, Limit, Terms, count
from presence_server.throttle.errors import ThrottledError
from presence_server.throttle.headers import PROBLEM_JSON
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.response_limits import SCOPE_KEY, ResponseLimits
from presence_server.throttle.rule import Algorithm

INNER_KEY: Final = "presence_server.throttle.dependencies"
"""The key of a scope's `ResponseLimits` where no middleware is around the application."""


class ThrottledHTTPError(HTTPException):
    """A refusal by a dependency. FastAPI answers it by itself; `answer_with_problems` makes a problem of it."""

    def __init__(self, error: ThrottledError, headers: dict[str, str]) -> None:
        super().__init__(error.status, str(error), headers)
        self.error = error
        """The error that the limiter raised."""


class Limited:
    """A dependency that holds a route to a limit; made by `limited`."""

    def __init__(self, limiter: Limiter, terms: Terms) -> None:
        self._limiter = limiter
        self._terms = terms

    async def __call__(self, connection: HTTPConnection, response: Response) -> Counted | None:
        """Count a request; return what it was counted as, None where it was not. Raises where it is refused."""
        scope = connection.scope
        around: ResponseLimits | None = scope.get(SCOPE_KEY)
        limits: ResponseLimits = around or scope.setdefault(INNER_KEY, ResponseLimits())
        try:
            rules, key, cost = await self._terms.of(_route_of(connection), connection)
            if not rules:
                return None
            counted = await count(self._limiter, rules, key, cost)
        except ThrottledError as exc:
            limits.note_refusal(exc)
            raise ThrottledHTTPError(exc, {} if around else limits.headers()) from None
        limits.note_decision(counted.decision, rules)
        if not around:
            response.headers.update(limits.headers())
        return counted


def limited(
    rule: Limit,
    *,
    limiter: Limiter,
    key: Key | None = None,
    cost: Cost = 1,
    exempt: Exempt | None = None,
    name: str = "",
    algorithm: Algorithm = "fixed",
    trusted: Sequence[str] = (),
    header: str = "x-forwarded-for",
) -> Limited:
    """Return a dependency that holds routes to a limit: `Depends(limited("5/60s", limiter=limiter))`.

    `Terms` describes the arguments; their functions get the `Request`, or the `WebSocket`. A limit that is no
    rule of the limiter's is counted for each route and method, or under `name`. `key` left out: the client's
    address, behind the `trusted` proxies that name it in `header`.

    A refused request is a 429, one whose cost no rule ever admits a 413, as FastAPI answers errors; after
    `answer_with_problems` a problem (RFC 9457). The headers of what is admitted are
    set by FastAPI where the handler returns no `Response` of its own; with the middleware `Throttle` around
    the application they are always there.

    Raises `TypeError` for a limiter that is no `Limiter`, `ValueError` for what can never work.
    """
    if not isinstance(limiter, Limiter):
        raise TypeError(f"a dependency needs a Limiter, not a {type(limiter).__name__}")
    found = key or _by_address(trusted, header)
    terms = Terms(limiter, rule, key=found, cost=cost, exempt=exempt, name=name, algorithm=algorithm)
    return Limited(limiter, terms)


def answer_with_problems(app: Starlette) -> None:
    """Have refusals answered as problems: those of dependencies, and `ThrottledError` that a handler raises."""
    handlers: dict[type[Exception], Any] = {ThrottledHTTPError: _answer_dependency, ThrottledError: _answer}
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


async def _answer_dependency(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, ThrottledHTTPError):
        raise error
    return await _refuse(connection, error.error, dict(error.headers or {}))


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, ThrottledError):
        raise error
    around: ResponseLimits | None = connection.scope.get(SCOPE_KEY)
    limits = around or connection.scope.get(INNER_KEY) or ResponseLimits()
    limits.note_refusal(error)
    return await _refuse(connection, error, {} if around else limits.headers())


async def _refuse(
    connection: HTTPConnection, error: ThrottledError, headers: dict[str, str]
) -> Response | None:
    """Return the answer; a WebSocket whose server can send none is closed."""
    extensions = connection.scope.get("extensions") or {}
    if isinstance(connection, WebSocket) and "websocket.http.response" not in extensions:
        await connection.close(TRY_AGAIN_LATER, "throttled")
        return None
    return Response(json.dumps(error.problem()), error.status, headers, PROBLEM_JSON)


def _route_of(connection: HTTPConnection) -> str:
    """Return what requests of one route and method have in common."""
    scope = connection.scope
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        path = getattr(scope.get("endpoint"), "__qualname__", "")
    return f"{scope.get('method', 'WEBSOCKET')} {scope.get('root_path', '')}{path}"


def _by_address(trusted: Sequence[str], header: str) -> Callable[[HTTPConnection], str]:
    addresses = ClientAddresses(trusted, header)

    def key(connection: HTTPConnection) -> str:
        if connection.client is None:
            return addresses.key(None)
        lines = connection.headers.getlist(addresses.header)
        return addresses.key(addresses.client(connection.client.host, lines))

    return key
