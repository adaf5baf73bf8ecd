"""Limits for any ASGI application, such as one of Starlette, FastAPI, Litestar or Quart: HTTP and WebSocket.

    app.add_middleware(
        Throttle,
        limiter=Limiter([Rule("api", "100/60s"), Rule("login", "5/60s")], redis="redis://localhost:6379"),
        routes={"POST /login": "login", "/healthz": None, "*": "api"},
        owns=True,
    )

Written against the ASGI specification 3.0 and its WebSocket Denial Response extension.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from presence_server.throttle.errors import ThrottledError, check_cost, check_decision
from presence_server.throttle.headers import PROBLEM_JSON
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.response_limits import SCOPE_KEY, ResponseLimits
from presence_server.throttle.routes import Routes, Rules
from presence_server.throttle.rule import Rule

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Key: TypeAlias = Callable[[Scope], "str | Awaitable[str | None] | None"]
TRY_AGAIN_LATER: Final = 1013
"""Close code for a WebSocket that a server without the extension cannot refuse with a status."""
STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class Throttle:
    """Holds every request to rules, and says so in the headers of every answer.

    - `routes`: for each pattern, such as `/login`, `POST /login` or `/items/*`, the rule or rules that apply,
      by name or as `Rule`, None for none; the first that matches decides (see `Routes`). Paths are those
      within the application: without the `root_path` under which it is mounted. A text: the rule that every
      request is held to. `Routes`: checked already; Starlette makes its middleware no sooner than it starts.
    - `key(scope)` says what a request is counted by, None for not at all; it may be a coroutine function.
      Left out: the client's address, behind the `trusted` proxies that name it in `header`; never a header
      alone. The ASGI server must not rewrite the address itself (uvicorn: `--no-proxy-headers`).
    - `cost`: how much a request counts, or a function of the scope that says so; 0 is not counted.
    - `owns`: the limiter is this application's: connect it when the application has started (ASGI's lifespan),
      and close it when that has ended. A store that is out of reach keeps no application from starting.

    A refused request gets 429 with a problem (RFC 9457), one whose cost no rule ever admits 413; a WebSocket
    before it is accepted. A preflight of CORS is not counted: no script asked for it, and none could read the
    refusal. Where the application fails before it has answered, the answer is a 500 with the headers, and the
    error goes on to the server; a handler of the application's own for such errors is left to answer.

    Raises `TypeError` for a limiter that is no `Limiter`, `ValueError` for routes that can never work (`Routes`).
    """

    def __init__(
        self,
        app: App,
        limiter: Limiter,
        routes: Routes | Mapping[str, Rules] | str | Rule,
        *,
        key: Key | None = None,
        cost: int | Callable[[Scope], int] = 1,
        trusted: Sequence[str] = (),
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
        owns: bool = False,
    ) -> None:
        if not isinstance(limiter, Limiter):
            raise TypeError(f"an ASGI application needs a Limiter, not a {type(limiter).__name__}")
        self._app = app
        self._limiter = limiter
        self._cost = cost
        fixed = 1 if callable(cost) else cost
        self._routes = routes if isinstance(routes, Routes) else Routes(routes, limiter, fixed)
        self._key = key or _by_address(trusted, header, ipv6_prefix)
        self._owns = owns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan" and self._owns:
            await self._app(scope, receive, self._living(send))
        elif scope["type"] in {"http", "websocket"}:
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = scope.get(SCOPE_KEY)
        outermost = limits is None
        if limits is None:
            limits = scope[SCOPE_KEY] = ResponseLimits()
        answer = _Answer(receive, send, limits if outermost else None)
        try:
            await self._hold(scope, limits)
            await self._app(scope, answer.receive, answer.send)
        except ThrottledError as exc:
            if answer.started:
                raise
            limits.note_refusal(exc)
            await answer.refuse(scope, exc)
        except Exception:
            if outermost and not answer.started and scope["type"] == "http" and not _handles_errors(scope):
                await _respond(
                    answer.send, "http.response", 500, b"text/plain; charset=utf-8", b"Internal Server Error"
                )
            raise

    async def _hold(self, scope: Scope, limits: ResponseLimits) -> None:
        """Count a request. Raises `ThrottledError` where it is refused."""
        rules = (
            [] if _is_preflight(scope) else self._routes.find(scope.get("method", "GET"), path_within(scope))
        )
        key = await self._key_of(scope) if rules else None
        if key is None:
            return
        cost = self._cost(scope) if callable(self._cost) else self._cost
        check_cost(rules, cost)
        if cost == 0:
            return
        decision = await self._limiter.hit(rules, key, cost)
        limits.note_decision(decision, rules)
        check_decision(decision, rules)

    async def _key_of(self, scope: Scope) -> str | None:
        key = self._key(scope)
        return await key if inspect.isawaitable(key) else key

    def _living(self, send: Send) -> Send:
        """Connect the limiter once the application has started; close it once that has ended."""

        async def living(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._limiter.connect()
            elif message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self._limiter.aclose()
            await send(message)

        return living


class _Answer:
    """Sends an answer, with its limits in its headers, and knows whether it has begun."""

    def __init__(self, receive: Receive, send: Send, limits: ResponseLimits | None) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._received = False
        self.started = False

    async def receive(self) -> Message:
        """Receive one message for the application."""
        self._received = True
        return await self._receive()

    async def send(self, message: Message) -> None:
        """Send one message of the application."""
        if message["type"] in STARTS:
            self.started = True
            if self._limits is not None:
                own: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
                message["headers"] = [*own, *_encoded(self._limits.headers())]
        await self._send(message)

    async def refuse(self, scope: Scope, error: ThrottledError) -> None:
        """Answer with the status and the problem of a refusal."""
        body = json.dumps(error.problem()).encode()
        if scope["type"] == "http":
            await _respond(self.send, "http.response", error.status, PROBLEM_JSON.encode(), body)
            return
        if not self._received:
            await self.receive()  # websocket.connect
        if "websocket.http.response" in scope.get("extensions", {}):
            await _respond(self.send, "websocket.http.response", error.status, PROBLEM_JSON.encode(), body)
        else:
            await self.send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "throttled"})


def path_within(scope: Scope) -> str:
    """Return a request's path within the application: without the `root_path` where that is mounted.

    ASGI has the whole path in `path`, `root_path` included; some servers leave it out.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    within = path.removeprefix(root)
    return within or "/" if within[:1] in {"", "/"} else path


def _is_preflight(scope: Scope) -> bool:
    """Tell whether a request asks, for a browser, whether another one would be allowed (Fetch, 3.2)."""
    return scope.get("method") == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


def _handles_errors(scope: Scope) -> bool:
    """Tell whether the application answers its own failures, by a handler or, in debug mode, with a page."""
    app = scope.get("app")
    handlers = getattr(app, "exception_handlers", None)
    own = isinstance(handlers, Mapping) and (500 in handlers or Exception in handlers)
    return own or bool(getattr(app, "debug", False))


def _by_address(trusted: Sequence[str], header: str, ipv6_prefix: int) -> Key:
    """Return the function that counts requests by their client's address."""
    from presence_server.throttle.address import ClientAddresses  # noqa: PLC0415 - not needed with a key

    addresses = ClientAddresses(trusted, header, ipv6_prefix)
    field = addresses.header.encode()

    def key(scope: Scope) -> str:
        peer = scope.get("client")
        if not peer:
            return addresses.key(None)
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == field]
        return addresses.key(addresses.client(peer[0], lines))

    return key


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


async def _respond(send: Send, kind: str, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
