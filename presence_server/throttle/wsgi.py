"""Limits for any WSGI application, such as one of Flask or Django.

    app.wsgi_app = WsgiThrottle(
        app.wsgi_app,
        SyncLimiter([Rule("api", "100/60s"), Rule("login", "5/60s")], redis="redis://localhost:6379"),
        {"POST /login": "login", "/healthz": None, "*": "api"},
    )

Written against PEP 3333.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from presence_server.throttle.errors import ThrottledError, check_cost, check_decision
from presence_server.throttle.headers import PROBLEM_JSON
from presence_server.throttle.response_limits import SCOPE_KEY, ResponseLimits
from presence_server.throttle.routes import Routes, Rules
from presence_server.throttle.sync import SyncLimiter

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

    from presence_server.throttle.rule import Rule

Environ: TypeAlias = dict[str, Any]
Key: TypeAlias = Callable[[Environ], str | None]


class WsgiThrottle:
    """Holds every request to rules, and says so in the headers of every answer.

    - `routes`: for each pattern, such as `/login`, `POST /login` or `/items/*`, the rule or rules that apply,
      by name or as `Rule`, None for none; the first that matches decides (see `Routes`). Paths are those
      within the application (`PATH_INFO`). A text: the rule that every request is held to.
    - `key(environ)` says what a request is counted by, None for not at all. Left out: the client's address,
      behind the `trusted` proxies that name it in `header`; never a header alone.
    - `cost`: how much a request counts, or a function of the environment that says so; 0 is not counted.

    A refused request gets 429 with a problem (RFC 9457), one whose cost no rule ever admits 413; so does a
    `ThrottledError` that the application raises. A preflight of CORS is not counted.

    Raises `TypeError` for a limiter that is no `SyncLimiter`, `ValueError` for routes that can never work.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        limiter: SyncLimiter,
        routes: "Routes | Mapping[str, Rules] | str | Rule",
        *,
        key: Key | None = None,
        cost: int | Callable[[Environ], int] = 1,
        trusted: Sequence[str] = (),
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        if not isinstance(limiter, SyncLimiter):
            raise TypeError(f"a WSGI application needs a SyncLimiter, not a {type(limiter).__name__}")
        self._app = app
        self._limiter = limiter
        self._cost = cost
        fixed = 1 if callable(cost) else cost
        self._routes = routes if isinstance(routes, Routes) else Routes(routes, limiter, fixed)
        self._key = key or _by_address(trusted, header, ipv6_prefix)

    def __call__(self, environ: Environ, start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request, or pass it on."""
        limits: ResponseLimits = environ.setdefault(SCOPE_KEY, ResponseLimits())
        started = False

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
            nonlocal started
            started = True
            # The outermost middleware sends the headers of all decisions.
            more = environ.pop(SCOPE_KEY).headers() if SCOPE_KEY in environ else {}
            return start_response(status, [*headers, *more.items()], *exc_info)

        try:
            self._hold(environ, limits)
            return self._app(environ, start)
        except ThrottledError as exc:
            if started:
                raise
            limits.note_refusal(exc)
            body = json.dumps(exc.problem()).encode()
            content = [("Content-Type", PROBLEM_JSON), ("Content-Length", str(len(body)))]
            start(f"{exc.status} {HTTPStatus(exc.status).phrase}", content)
            return [body]

    def _hold(self, environ: Environ, limits: ResponseLimits) -> None:
        """Count a request. Raises `ThrottledError` where it is refused."""
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            return
        # PEP 3333 has bytes as latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
        rules = self._routes.find(method, path or "/")
        key = self._key(environ) if rules else None
        if key is None:
            return
        cost = self._cost(environ) if callable(self._cost) else self._cost
        check_cost(rules, cost)
        if cost == 0:
            return
        decision = self._limiter.hit(rules, key, cost)
        limits.note_decision(decision, rules)
        check_decision(decision, rules)


def _by_address(trusted: Sequence[str], header: str, ipv6_prefix: int) -> Key:
    """Return the function that counts requests by their client's address."""
    from presence_server.throttle.address import ClientAddresses  # noqa: PLC0415 - not needed with a key

    addresses = ClientAddresses(trusted, header, ipv6_prefix)
    field = "HTTP_" + addresses.header.upper().replace("-", "_")

    def key(environ: Environ) -> str:
        lines = [environ[field]] if field in environ else []
        return addresses.key(addresses.client(environ.get("REMOTE_ADDR", ""), lines))

    return key
