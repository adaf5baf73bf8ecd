"""The middleware in applications of four frameworks: routes, methods, mounts, failures, headers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import litestar
import pytest
import quart
from fastapi import FastAPI
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from presence_server.throttle import Limiter, Rule
from presence_server.throttle.asgi import App, Throttle

pytestmark = pytest.mark.anyio
RULES = [Rule("api", "4/1h"), Rule("login", "2/1h")]
ROUTES = {"POST /login": ["login", "api"], "/healthz": None, "*": "api"}


def of_starlette(limiter: Limiter) -> App:
    async def said(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def broken(request: Request) -> Response:
        raise RuntimeError("a defect")

    names = ["/login", "/healthz", "/items/{item}"]
    routes = [*(Route(name, said, methods=["GET", "POST"]) for name in names), Route("/broken", broken)]
    return Starlette(routes=routes, middleware=[Middleware(Throttle, limiter=limiter, routes=ROUTES)])


def of_starlette_mounted(limiter: Limiter) -> App:
    return Starlette(routes=[Mount("/mounted", of_starlette(limiter))])


def of_fastapi(limiter: Limiter) -> App:
    app = FastAPI()
    app.add_middleware(Throttle, limiter=limiter, routes=ROUTES)

    @app.api_route("/login", methods=["GET", "POST"])
    @app.get("/healthz")
    @app.get("/items/{item}")
    async def said() -> str:
        return "ok"

    @app.get("/broken")
    async def broken() -> str:
        raise RuntimeError("a defect")

    return app


def of_litestar(limiter: Limiter) -> App:
    """Its own middleware sees only what has a route."""
    throttle: Any = Throttle
    return litestar_application(DefineMiddleware(throttle, limiter=limiter, routes=ROUTES))


def of_litestar_around(limiter: Limiter) -> App:
    return Throttle(litestar_application(), limiter, ROUTES)


def litestar_application(*middleware: Any) -> App:
    @litestar.route(["/login", "/healthz", "/items/{item:str}"], http_method=["GET", "POST"], status_code=200)
    async def said() -> str:
        return "ok"

    @litestar.get("/broken")
    async def broken() -> str:
        raise RuntimeError("a defect")

    app: Any = litestar.Litestar([said, broken], middleware=middleware, logging_config=None)
    return app  # type: ignore[no-any-return]  # an ASGI application


def of_quart(limiter: Limiter) -> App:
    app = quart.Quart(__name__)

    async def said(**_: str) -> str:
        return "ok"

    async def broken() -> str:
        raise RuntimeError("a defect")

    for path in ("/login", "/healthz", "/items/<item>"):
        app.add_url_rule(path, path, said, methods=["GET", "POST"])
    app.add_url_rule("/broken", "broken", broken)
    app.asgi_app = Throttle(app.asgi_app, limiter, ROUTES)  # type: ignore[method-assign,assignment,arg-type]  # as Quart says
    return app  # type: ignore[return-value]  # an ASGI application


APPLICATIONS = {
    "starlette": of_starlette,
    "mounted": of_starlette_mounted,
    "fastapi": of_fastapi,
    "litestar": of_litestar,
    "litestar around": of_litestar_around,
    "quart": of_quart,
}


@pytest.fixture
async def limiter(anyio_backend: str) -> AsyncIterator[Limiter]:
    async with Limiter(RULES) as limiter:
        yield limiter


@pytest.fixture(params=APPLICATIONS)
async def asking(request: pytest.FixtureRequest, limiter: Limiter) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(APPLICATIONS[request.param](limiter), raise_app_exceptions=False)
    base = "http://test/mounted" if request.param == "mounted" else "http://test"
    async with httpx.AsyncClient(transport=transport, base_url=base) as asking:
        yield asking


async def test_routes_methods_and_headers(asking: httpx.AsyncClient) -> None:
    first = await asking.post("/login")
    assert first.status_code == 200
    assert first.headers["RateLimit"].startswith('"login";r=1;t=')
    assert first.headers["RateLimit-Policy"] == '"login";q=2;w=3600, "api";q=4;w=3600'
    assert (await asking.get("/login")).headers["RateLimit-Policy"] == '"api";q=4;w=3600'
    assert (await asking.post("/login")).status_code == 200
    refused = await asking.post("/login")
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["violated-policies"] == ["login"]
    assert 0 < int(refused.headers["Retry-After"]) <= 3_600
    assert [(await asking.get("/items/1")).status_code for _ in range(2)] == [200, 429]
    free = await asking.get("/healthz")
    assert free.status_code == 200
    assert "RateLimit" not in free.headers


async def test_a_failure_has_the_headers(asking: httpx.AsyncClient) -> None:
    answer = await asking.get("/broken")
    assert answer.status_code == 500
    assert answer.headers.get_list("RateLimit-Policy") == ['"api";q=4;w=3600']
    assert answer.headers["RateLimit"].startswith('"api";r=3;')


@pytest.mark.parametrize("asking", [name for name in APPLICATIONS if name != "litestar"], indirect=True)
async def test_what_is_not_there_counts_and_has_the_headers(asking: httpx.AsyncClient) -> None:
    answer = await asking.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["RateLimit"].startswith('"api";r=3;')
