"""Limits for any ASGI application, such as one of Starlette or FastAPI: HTTP and WebSocket.

    app.add_middleware(
        Throttle,
        limiter=Limiter([Rule("api", "100/60s"), Rule("login", "5/60s")], redis="redis://localhost:6379"),
        routes={"/login": "login", "/healthz": None, "/*": "api"},
    )

Written against the ASGI specification 3.0 and its WebSocket Denial Response extension.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias

from presence_server.throttle.address import ClientAddresses
from presence_server.throttle.decision import Decision
from presence_server.throttle.limiter import Limiter

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Key: TypeAlias = Callable[[Scope], "str | Awaitable[str | None] | None"]
Rules: TypeAlias = "str | Sequence[str] | None"
TRY_AGAIN_LATER: Final = 1013
"""Close code for a WebSocket that a server without the extension cannot refuse with a status."""


class Throttle:
    """Holds every request to a rule, and says so in the headers of every answer.

    - `routes`: for each pattern of paths (`*` matches anything) the rule or rules that apply, None for none;
      the first that matches decides. A text: the rule that every path is held to.
    - `key(scope)` says what a request is counted by, None for not at all; it may be a coroutine function.
      Left out: the client's address, behind the `trusted` proxies that name it in `header`; never a header
      alone. The ASGI server must not rewrite the address itself (uvicorn: `--no-proxy-headers`).
    - `cost(scope)`: how much a request counts; left out: 1.

    A refused request gets 429 with a problem (RFC 9457), a refused WebSocket 429 before it is accepted.
    """

    def __init__(
        self,
        app: App,
        limiter: Limiter,
        routes: Mapping[str, Rules] | str,
        *,
        key: Key | None = None,
        cost: Callable[[Scope], int] = lambda scope: 1,
        trusted: Sequence[str] = (),
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._routes = {"*": routes} if isinstance(routes, str) else dict(routes)
        self._addresses = ClientAddresses(trusted, header, ipv6_prefix)
        self._key = key or self._address
        self._cost = cost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        rules = self._rules(scope) if scope["type"] in {"http", "websocket"} else None
        key = await self._key_of(scope) if rules else None
        if not rules or key is None:
            await self._app(scope, receive, send)
            return
        decision = await self._limiter.hit(rules, key, self._cost(scope))
        if decision.allowed:
            await self._app(scope, receive, _telling(send, decision))
        elif scope["type"] == "http":
            await _refuse(send, "http.response", decision)
        else:
            await receive()  # websocket.connect
            if "websocket.http.response" in scope.get("extensions", {}):
                await _refuse(send, "websocket.http.response", decision)
            else:
                await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "throttled"})

    def _rules(self, scope: Scope) -> Rules:
        path: str = scope["path"]
        for pattern, rules in self._routes.items():
            if fnmatchcase(path, pattern):
                return rules
        return None

    async def _key_of(self, scope: Scope) -> str | None:
        key = self._key(scope)
        return await key if inspect.isawaitable(key) else key

    def _address(self, scope: Scope) -> str:
        peer = scope.get("client")
        if not peer:
            return self._addresses.key(None)
        name = self._addresses.header.encode()
        lines = [value.decode("latin-1") for field, value in scope["headers"] if field == name]
        return self._addresses.key(self._addresses.client(peer[0], lines))


def _headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in decision.headers().items()]


def _telling(send: Send, decision: Decision) -> Send:
    """Add the headers to the answer of the application."""

    async def tell(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            own: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
            message["headers"] = [*own, *_headers(decision)]
        await send(message)

    return tell


async def _refuse(send: Send, kind: str, decision: Decision) -> None:
    detail = f"rule {decision.rule!r}: try again in {decision.retry_after:.1f} s"
    problem = {"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": detail}
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *_headers(decision),
    ]
    await send({"type": f"{kind}.start", "status": 429, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
