"""Which requests the middleware counts, and how it answers: ASGI messages, without a server."""

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from presence_server.throttle import Limiter, Rule, SyncLimiter
from presence_server.throttle.asgi import Scope, Throttle
from presence_server.throttle.errors import ThrottledError
from presence_server.throttle.fastapi import limited
from presence_server.throttle.headers import QUOTA_EXCEEDED
from presence_server.throttle.routes import Routes
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]
RULES = [Rule("api", "4/1h"), Rule("login", "2/1h"), Rule("all", "6/1h")]


@pytest.fixture
async def limiter(anyio_backend: str) -> AsyncIterator[Limiter]:
    async with Limiter(RULES) as limiter:
        yield limiter


async def said(request: Request) -> Response:
    return PlainTextResponse(request.url.path)


async def broken(request: Request) -> Response:
    raise RuntimeError("a defect of the application")


def client(app: Any, root_path: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def throttled(limiter: Limiter, routes: Any, **options: Any) -> Starlette:
    throttle = Middleware(Throttle, limiter=limiter, routes=routes, **options)
    found = [
        Route("/broken", broken),
        Route("/{rest:path}", said, methods=["GET", "POST", "OPTIONS", "PUT"]),
    ]
    return Starlette(routes=found, middleware=[throttle])


async def statuses(
    client: httpx.AsyncClient, method: str, path: str, count: int, **options: Any
) -> list[int]:
    return [(await client.request(method, path, **options)).status_code for _ in range(count)]


async def test_a_pattern_is_matched_against_the_path_within_a_mounted_application(limiter: Limiter) -> None:
    outer = Starlette(routes=[Mount("/app", throttled(limiter, {"/login": "login"}))])
    async with client(outer) as asking:
        assert await statuses(asking, "GET", "/app/login", 3) == [200, 200, 429]
        assert await statuses(asking, "GET", "/app/app/login", 3) == [200] * 3


@pytest.mark.parametrize("path", ["/proxy/login", "/login"])
async def test_a_pattern_is_matched_without_the_root_path(limiter: Limiter, path: str) -> None:
    # Servers differ on whether `path` has the root path in it; ASGI says that it has.
    async with client(throttled(limiter, {"/login": "login"}), root_path="/proxy") as asking:
        assert await statuses(asking, "GET", path, 3) == [200, 200, 429]
        assert await statuses(asking, "GET", "/proxying/login", 3) == [200] * 3


@pytest.mark.parametrize(
    ("pattern", "held", "free"),
    [
        ("POST /login", ["POST /login"], ["GET /login", "PUT /login", "POST /login/x"]),
        ("GET /items/*", ["GET /items/1", "HEAD /items/1/2", "GET /items/"], ["POST /items/1", "GET /items"]),
        ("*", ["GET /", "PUT /a/b", "DELETE /\n"], []),
        ("PUT *", ["PUT /a"], ["GET /a"]),
        ("/a/*/c/*.txt", ["GET /a/b/c/d.txt", "GET /a//c/.txt"], ["GET /a/c/d.txt", "GET /a/b/c/d.txt.gz"]),
        ("/a?[bc]", ["GET /a?[bc]"], ["GET /axb"]),
    ],
)
def test_a_pattern_is_a_path_with_stars_and_perhaps_a_method(
    pattern: str, held: list[str], free: list[str]
) -> None:
    routes = Routes({pattern: "login"}, Limiter(RULES))
    for request in held:
        assert [rule.name for rule in routes.find(*request.split(" ", 1))] == ["login"], request
    for request in free:
        assert routes.find(*request.split(" ", 1)) == [], request


def test_the_first_pattern_that_matches_decides_and_none_is_no_rule() -> None:
    routes = Routes({"/healthz": None, "POST *": ["login", RULES[2]], "*": "api"}, Limiter(RULES))
    names = {
        request: [rule.name for rule in routes.find(*request.split())]
        for request in ("GET /healthz", "POST /x", "GET /x")
    }
    assert names == {"GET /healthz": [], "POST /x": ["login", "all"], "GET /x": ["api"]}
    assert Routes({}, Limiter(RULES)).find("GET", "/") == []


@pytest.mark.parametrize(
    "pattern", ["login", "GET", "post /login", "POST/login", "GET,POST /login", "", " /login"]
)
def test_a_pattern_that_could_never_match_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=f"route {pattern!r}: expected a path"):
        Routes({pattern: "login"}, Limiter(RULES))


def test_a_path_of_a_client_takes_time_in_proportion_to_its_length() -> None:
    routes = Routes({"/*a*a*a*a*a*a*a*a*b": "api"}, Limiter(RULES))
    assert routes.find("GET", "/" + "a" * 60_000) == []


@pytest.mark.parametrize(
    ("routes", "options", "message"),
    [
        ({"/login": "lgoin"}, {}, "route '/login': no rule 'lgoin'; there are: api, login, all"),
        ({"/x": ["api", "lgoin"]}, {}, "route '/x': no rule 'lgoin'"),
        ("lgoin", {}, "route '*': no rule 'lgoin'"),
        ({"/x": "api"}, {"cost": 0}, "route '/x': rule 'api' admits a cost from 1 to 4, not 0"),
        ({"/x": ["api", "login"]}, {"cost": 3}, "route '/x': rule 'login' admits a cost from 1 to 2, not 3"),
        ({"/x": Rule("own", "2/1s")}, {"cost": 3}, "rule 'own' admits"),
        ({"/x": ["api", "api"]}, {}, "route '/x': rule 'api' is named twice"),
    ],
)
async def test_routes_that_cannot_work_are_refused_when_they_are_made(
    limiter: Limiter, routes: Any, options: Any, message: str
) -> None:
    async def app(*_: Any) -> None: ...

    with pytest.raises(ValueError, match=re.escape(message)):
        Throttle(app, limiter, routes, **options)


async def test_a_limiter_for_threads_is_refused(limiter: Limiter) -> None:
    async def app(*_: Any) -> None: ...

    with SyncLimiter(RULES) as wrong:
        with pytest.raises(TypeError, match="an ASGI application needs a Limiter, not a SyncLimiter"):
            Throttle(app, wrong, "api")  # type: ignore[arg-type]  # that is what is tried
        with pytest.raises(TypeError, match="a dependency needs a Limiter, not a SyncLimiter"):
            limited("api", limiter=wrong)  # type: ignore[arg-type]  # that is what is tried


async def test_routes_can_be_made_and_checked_before_the_application(limiter: Limiter) -> None:
    async with client(throttled(limiter, Routes({"/login": "login"}, limiter))) as asking:
        assert await statuses(asking, "GET", "/login", 3) == [200, 200, 429]


async def test_rules_that_a_limiter_gets_later_are_named_before(limiter: Limiter) -> None:
    later = Limiter()
    async with client(throttled(later, {"/login": "login"})) as asking:
        later.change_rules(RULES)
        assert await statuses(asking, "GET", "/login", 3) == [200, 200, 429]


async def test_a_rule_that_was_taken_away_refuses_nothing_and_is_logged_once(
    limiter: Limiter, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(throttled(limiter, {"/login": ["login", "api"]})) as asking:
        await asking.get("/")  # Starlette makes its middleware at the first request
        limiter.change_rules([RULES[0]])
        with caplog.at_level(logging.WARNING):
            assert await statuses(asking, "GET", "/login", 5) == [200] * 4 + [429]
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.args for record in warnings] == [("login",)]


@pytest.mark.parametrize("cost", [5, 10**30, -1])
async def test_a_cost_that_is_never_admitted_is_a_413_and_counts_nothing(limiter: Limiter, cost: int) -> None:
    def costs(scope: Scope) -> int:
        return cost if scope["path"] == "/large" else 1

    async with client(throttled(limiter, "api", cost=costs)) as asking:
        answer = await asking.get("/large")
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == f"rule 'api' admits a cost from 1 to 4, not {cost}"
        assert answer.headers["RateLimit-Policy"] == '"api";q=4;w=3600'
        assert "Retry-After" not in answer.headers
        assert await statuses(asking, "GET", "/small", 5) == [200] * 4 + [429]


async def test_what_costs_nothing_is_not_counted(limiter: Limiter) -> None:
    async with client(throttled(limiter, "login", cost=lambda scope: 0)) as asking:
        assert await statuses(asking, "GET", "/", 5) == [200] * 5


async def test_a_preflight_is_not_counted_and_another_options_request_is(limiter: Limiter) -> None:
    app = throttled(limiter, "login")
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    asks = {"Origin": "http://page", "Access-Control-Request-Method": "GET"}
    async with client(throttled(limiter, "login")) as asking:
        assert await statuses(asking, "OPTIONS", "/", 5, headers=asks) == [200] * 5
        assert "RateLimit" not in (await asking.options("/", headers=asks)).headers
        assert await statuses(asking, "OPTIONS", "/", 3) == [200, 200, 429]
        assert await statuses(asking, "GET", "/", 1, headers=asks) == [429]


async def test_a_refusal_is_the_registered_problem(limiter: Limiter) -> None:
    async with client(throttled(limiter, {"*": ["api", "login"]})) as asking:
        await statuses(asking, "GET", "/", 2)
        answer = await asking.get("/")
    assert answer.status_code == 429
    problem = answer.json()
    assert problem["type"] == QUOTA_EXCEEDED
    assert problem["violated-policies"] == ["login"]
    assert answer.headers["RateLimit-Policy"] == '"api";q=4;w=3600, "login";q=2;w=3600'
    assert int(answer.headers["Retry-After"]) <= 3_600


async def test_a_failure_of_the_application_is_a_500_that_says_what_is_left(limiter: Limiter) -> None:
    async with client(throttled(limiter, "api")) as asking:
        answer = await asking.get("/broken")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert answer.headers["RateLimit"].startswith('"api";r=3;')
        assert len(answer.headers.get_list("RateLimit")) == 1


async def test_a_failure_still_reaches_the_server(limiter: Limiter) -> None:
    transport = httpx.ASGITransport(throttled(limiter, "api"), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
        with pytest.raises(RuntimeError, match="a defect of the application"):
            await asking.get("/broken")


async def test_an_application_that_answers_its_own_failures_goes_on_doing_so(limiter: Limiter) -> None:
    async def sorry(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("sorry", 500)

    app = throttled(limiter, "api")
    app.add_exception_handler(Exception, sorry)
    async with client(app) as asking:
        assert (await asking.get("/broken")).text == "sorry"
    # Around the whole application, the middleware sees that answer, too.
    inner = Starlette(routes=[Route("/broken", broken)], exception_handlers={500: sorry})
    async with client(Throttle(inner, limiter, "login")) as asking:
        answer = await asking.get("/broken")
        assert answer.text == "sorry"
        assert answer.headers["RateLimit"].startswith('"login";r=1;')


async def test_two_middlewares_tell_of_both_in_one_field(limiter: Limiter) -> None:
    inner = throttled(limiter, "login")
    outer = Starlette(
        routes=[Mount("/app", inner)], middleware=[Middleware(Throttle, limiter=limiter, routes="all")]
    )
    async with client(outer) as asking:
        answers = [await asking.get("/app/x") for _ in range(3)]
        broken = await asking.get("/app/broken")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    for answer in answers:
        assert answer.headers.get_list("RateLimit-Policy") == ['"all";q=6;w=3600, "login";q=2;w=3600']
    assert broken.status_code == 429


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_websocket_that_the_application_has_begun_to_read_is_refused_all_the_same(
    limiter: Limiter, extension: bool, connected: bool
) -> None:
    for _ in range(2):
        await limiter.hit("login", "k")
    decision = await limiter.hit("login", "k")

    async def app(scope: Scope, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if connected:
            await receive()
        raise ThrottledError(decision)

    sent: list[Any] = []
    messages = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    extensions: dict[str, Any] = {"websocket.http.response": {}} if extension else {}
    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [],
        "extensions": extensions,
        "client": ("1.2.3.4", 1),
    }
    await Throttle(app, limiter, "api")(scope, receive, send)
    if extension:
        assert sent[0]["status"] == 429
        assert b"retry-after" in dict(sent[0]["headers"])
        assert json.loads(sent[1]["body"])["violated-policies"] == ["login"]
    else:
        assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]
    assert next(messages, None) is None


@pytest.mark.parametrize("owns", [True, False])
async def test_an_application_that_owns_its_limiter_closes_it_when_it_ends(
    empty_server: RedisServer, owns: bool
) -> None:
    limiter = Limiter(RULES, redis=empty_server.url, deadline_ms=20_000)
    app = throttled(limiter, "api", owns=owns)
    sent: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "lifespan.startup.complete":
            assert (await limiter.hit("api", "k")).source == "redis"
            await until(is_connected)

    def is_connected() -> bool:
        return any(client["sub"] == "1" for client in empty_server.ask("CLIENT LIST"))

    await app({"type": "lifespan", "state": {}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    if owns:
        await until(lambda: not is_connected())
    else:
        assert is_connected()
        await limiter.aclose()
