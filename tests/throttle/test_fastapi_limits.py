"""Limits as dependencies of FastAPI and on handlers, alone and with the middleware around them."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from presence_server.throttle import Limiter, Rule
from presence_server.throttle.asgi import Throttle
from presence_server.throttle.counted import Counted
from presence_server.throttle.decorators import limit
from presence_server.throttle.fastapi import answer_with_problems, limited
from presence_server.throttle.headers import QUOTA_EXCEEDED

pytestmark = pytest.mark.anyio


@pytest.fixture
async def limiter(anyio_backend: str) -> AsyncIterator[Limiter]:
    async with Limiter([Rule("login", "2/1h"), Rule("all", "9/1h")]) as limiter:
        yield limiter


def client(app: Any, address: str = "1.2.3.4") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def statuses(
    asking: httpx.AsyncClient, method: str, path: str, count: int, **options: Any
) -> list[int]:
    return [(await asking.request(method, path, **options)).status_code for _ in range(count)]


def by_user(request: Request) -> str | None:
    return request.headers.get("x-user")


def application(limiter: Limiter) -> FastAPI:
    app = FastAPI()
    search = Depends(limited("2/1h", limiter=limiter))

    @app.get("/search/{what}", dependencies=[search])
    @app.post("/search/{what}", dependencies=[search])
    @app.get("/other", dependencies=[search])
    def found() -> str:
        return "found"

    @app.get("/one", dependencies=[Depends(limited("login", limiter=limiter))])
    @app.get("/two", dependencies=[Depends(limited(["login", "all"], limiter=limiter))])
    def shared() -> str:
        return "shared"

    @app.get("/own", dependencies=[Depends(limited("login", limiter=limiter))])
    def own() -> Response:
        return PlainTextResponse("own")

    @app.get("/broken", dependencies=[Depends(limited("login", limiter=limiter))])
    def broken() -> None:
        raise RuntimeError("a defect")

    costs = limited("5/1h", limiter=limiter, key=by_user, cost=lambda request: int(request.headers["x-cost"]))

    @app.get("/costs")
    async def costly(counted: Annotated[Counted | None, Depends(costs)], back: int = 0) -> int:
        assert counted is not None
        if back:
            await counted.refund(back)
        return counted.decision.remaining

    @app.get("/handler")
    @limit("2/1h", limiter=limiter, key=lambda request: request.client.host)
    async def handler(request: Request, response: Response, what: str = "") -> str:
        return str(request.url.path)

    @app.websocket("/socket")
    async def socket(
        websocket: WebSocket, counted: Annotated[Counted, Depends(limited("1/1h", limiter=limiter))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(str(counted.decision.remaining))
        await websocket.close()

    return app


async def test_a_limit_is_counted_for_each_route_and_method_and_client(limiter: Limiter) -> None:
    app = application(limiter)
    async with client(app) as asking, client(app, "5.6.7.8") as other:
        assert [(await asking.get(f"/search/{n}")).status_code for n in range(3)] == [200, 200, 429]
        assert await statuses(asking, "POST", "/search/x", 3) == [200, 200, 429]
        assert await statuses(asking, "GET", "/other", 3) == [200, 200, 429]
        assert await statuses(other, "GET", "/other", 3) == [200, 200, 429]


async def test_a_rule_of_the_limiter_is_shared_between_routes(limiter: Limiter) -> None:
    async with client(application(limiter)) as asking:
        assert [(await asking.get(path)).status_code for path in ("/one", "/two", "/one", "/two")] == [
            200,
            200,
            429,
            429,
        ]
        assert (await limiter.peek("all", "1.2.3.4")).remaining == 8


async def test_the_headers_say_what_is_left_and_when_to_come_back(limiter: Limiter) -> None:
    app = application(limiter)
    async with client(app) as asking:
        admitted = await asking.get("/two")
        assert admitted.headers["RateLimit-Policy"] == '"login";q=2;w=3600, "all";q=9;w=3600'
        assert admitted.headers["RateLimit"].startswith('"login";r=1;t=3600, "all";r=8;t=3600')
        await asking.get("/two")
        refused = await asking.get("/two")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3600")
        assert "try again in" in refused.json()["detail"]
    later = application(limiter)
    answer_with_problems(later)
    async with client(later) as asking:
        refused = await asking.get("/two")
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == QUOTA_EXCEEDED
        assert refused.json()["violated-policies"] == ["login"]
        assert refused.headers.get_list("Retry-After") == ["3600"]


@pytest.mark.parametrize("problems", [True, False])
async def test_with_the_middleware_around_it_every_answer_tells_of_all(
    limiter: Limiter, problems: bool
) -> None:
    app = application(limiter)
    if problems:
        answer_with_problems(app)
    app.add_middleware(Throttle, limiter=limiter, routes="all")
    policies = '"all";q=9;w=3600, "login";q=2;w=3600'
    async with client(app) as asking:
        for path, status in [("/own", 200), ("/broken", 500), ("/one", 429)]:
            answer = await asking.get(path)
            assert answer.status_code == status
            assert answer.headers.get_list("RateLimit-Policy") == [policies], path
            assert len(answer.headers.get_list("RateLimit")) == 1
        assert answer.headers.get_list("Retry-After") == ["3600"]


async def test_a_cost_is_the_requests_and_may_be_given_back(limiter: Limiter) -> None:
    async with client(application(limiter)) as asking:
        headers = {"x-user": "ann", "x-cost": "3"}
        assert (await asking.get("/costs?back=2", headers=headers)).json() == 2
        assert (await asking.get("/costs", headers=headers)).json() == 1
        assert (await asking.get("/costs", headers=headers)).status_code == 429
        assert (await asking.get("/costs", headers={"x-user": "bob", "x-cost": "6"})).status_code == 413


@pytest.mark.parametrize("middleware", [True, False])
async def test_a_handler_with_a_limit_answers_429_with_a_problem(limiter: Limiter, middleware: bool) -> None:
    app = application(limiter)
    if middleware:
        app.add_middleware(Throttle, limiter=limiter, routes={})
    else:
        answer_with_problems(app)
    async with client(app) as asking:
        assert await statuses(asking, "GET", "/handler", 2) == [200, 200]
        refused = await asking.get("/handler")
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["Retry-After"] == "3600"
        assert refused.json()["type"] == QUOTA_EXCEEDED


async def test_in_starlette_too(limiter: Limiter) -> None:
    @limit("login", limiter=limiter, key=lambda request: request.client.host)
    async def handler(request: Request) -> Response:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", handler)])
    answer_with_problems(app)
    async with client(app) as asking:
        assert await statuses(asking, "GET", "/", 3) == [200, 200, 429]


async def test_a_router_may_be_held_to_a_limit_as_a_whole(limiter: Limiter) -> None:
    whole = limited("2/1h", limiter=limiter, name="of the router", exempt=lambda r: "x-staff" in r.headers)
    router = APIRouter(prefix="/v1", dependencies=[Depends(whole)])
    for path in ("/a", "/b"):
        router.add_api_route(path, lambda: "ok")
    app = FastAPI()
    app.include_router(router)
    async with client(app) as asking:
        assert [(await asking.get(path)).status_code for path in ("/v1/a", "/v1/b", "/v1/a")] == [
            200,
            200,
            429,
        ]
        assert await statuses(asking, "GET", "/v1/a", 3, headers={"x-staff": "yes"}) == [200] * 3


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("problems", [True, False])
async def test_a_websocket_is_refused_before_it_is_accepted(
    limiter: Limiter, extension: bool, problems: bool
) -> None:
    app = application(limiter)
    if problems:
        answer_with_problems(app)
    assert [await asked_for(app, extension) for _ in range(2)] == [
        "accepted",
        "429" if extension else "closed 1013" if problems else "429",
    ]


async def asked_for(app: FastAPI, extension: bool) -> str:
    """Ask for a WebSocket; return how it began."""
    sent: list[Any] = []
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/socket",
        "raw_path": b"/socket",
        "query_string": b"",
        "headers": [],
        "client": ("1.2.3.4", 1),
        "extensions": {"websocket.http.response": {}} if extension else {},
    }

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    first = sent[0]
    if first["type"] == "websocket.accept":
        return "accepted"
    if first["type"] == "websocket.close":
        return f"closed {first['code']}"
    assert b"retry-after" in dict(first["headers"])
    return str(first["status"])


async def test_mistakes_are_found_where_the_dependency_is_made(limiter: Limiter) -> None:
    with pytest.raises(ValueError, match="'lgoin' is neither a rule of the limiter"):
        limited("lgoin", limiter=limiter)
    with pytest.raises(ValueError, match="admits a cost from 1 to 2, not 3"):
        limited("login", limiter=limiter, cost=3)
