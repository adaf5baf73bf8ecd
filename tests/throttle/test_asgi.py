"""The middleware in a real FastAPI application under uvicorn."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI, Header, Response, WebSocket

from presence_server.throttle import Limiter, Rule
from presence_server.throttle.asgi import Scope, Throttle
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

RULES = [Rule("api", "4/1h"), Rule("login", "2/1h", block_ms=60_000), Rule("all", "6/1h")]


def application(limiter: Limiter, routes: Any, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(Throttle, limiter=limiter, routes=routes, **options)

    @app.get("/items/{item}")
    async def item(item: str, response: Response) -> dict[str, str]:
        response.headers["X-Own"] = "kept"
        return {"item": item}

    @app.post("/login")
    async def login(name: Annotated[str, Header()] = "") -> str:
        return name

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    return app


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[aiohttp.ClientSession]:
    """Run it, and give a client of it."""
    # uvicorn would believe X-Forwarded-For from 127.0.0.1 itself, which here is the client.
    options: dict[str, Any] = {"lifespan": "off", "ws": "websockets-sansio", "proxy_headers": False}
    config = uvicorn.Config(app, port=0, log_level="warning", **options)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await running


@pytest.fixture(params=["shared", "alone"])
async def limiter(request: pytest.FixtureRequest, empty_server: RedisServer) -> AsyncIterator[Limiter]:
    url = empty_server.url if request.param == "shared" else ""
    async with Limiter(RULES, redis=url, deadline_ms=20_000) as limiter:
        yield limiter


async def test_every_answer_says_what_is_left_and_the_refusal_when_to_come_back(limiter: Limiter) -> None:
    async with serving(application(limiter, "api")) as client:
        for left in (3, 2, 1, 0):
            async with client.get("/items/1") as answer:
                assert answer.status == 200
                assert answer.headers["RateLimit"].startswith(f'"api";r={left};t=')
                assert answer.headers["RateLimit-Policy"] == '"api";q=4;w=3600'
                assert answer.headers["X-Own"] == "kept"
        async with client.get("/items/1") as answer:
            assert answer.status == 429
            assert 3_500 < int(answer.headers["Retry-After"]) <= 3_600
            assert answer.content_type == "application/problem+json"
            assert (await answer.json())["status"] == 429


async def test_routes_have_their_own_rules_or_none(limiter: Limiter) -> None:
    routes = {"/login": ["login", "all"], "/healthz": None, "/items/*": "api"}
    async with serving(application(limiter, routes)) as client:
        statuses = [(await client.post("/login")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert [(await client.get("/items/1")).status for _ in range(5)] == [200] * 4 + [429]
        for _ in range(10):
            answer = await client.get("/healthz")
            assert answer.status == 200
            assert "RateLimit" not in answer.headers
        assert (await client.get("/nothing")).status == 404


async def test_a_websocket_is_refused_before_it_is_accepted(limiter: Limiter) -> None:
    async with serving(application(limiter, {"/socket": "login"})) as client:
        for _ in range(2):
            async with client.ws_connect("/socket") as socket:
                assert await socket.receive_str() == "hello"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect("/socket")
        assert refused.value.status == 429
        assert refused.value.headers is not None
        assert 0 < int(refused.value.headers["Retry-After"]) <= 3_600


async def test_the_key_is_the_address_and_no_header_changes_it(limiter: Limiter) -> None:
    async with serving(application(limiter, "login")) as client:
        statuses = [
            (await client.get("/healthz", headers={"X-Forwarded-For": f"6.6.6.{n}"})).status for n in range(4)
        ]
        assert statuses == [200, 200, 429, 429]


async def test_behind_a_trusted_proxy_the_header_counts(limiter: Limiter) -> None:
    async with serving(application(limiter, "login", trusted=["127.0.0.0/8"])) as client:
        for n in range(4):
            answer = await client.get("/healthz", headers={"X-Forwarded-For": f"6.6.6.6, 1.2.3.{n}"})
            assert answer.status == 200


@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_what_is_counted_is_the_applications_choice(limiter: Limiter, is_coroutine: bool) -> None:
    def key(scope: Scope) -> str | None:
        return dict(scope["headers"]).get(b"x-api-key", b"").decode() or None

    async def later(scope: Scope) -> str | None:
        return key(scope)

    chosen: Callable[[Scope], Any] = later if is_coroutine else key
    async with serving(application(limiter, "login", key=chosen, cost=lambda scope: 2)) as client:
        for name in ("ann", "bob"):
            headers = {"X-API-Key": name}
            assert [(await client.get("/healthz", headers=headers)).status for _ in range(2)] == [200, 429]
        assert [(await client.get("/healthz")).status for _ in range(3)] == [200] * 3
