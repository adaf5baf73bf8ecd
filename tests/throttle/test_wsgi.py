"""The WSGI middleware in applications of Flask and Django, and on its own under a real server."""

import json
import threading
import wsgiref.validate
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
import flask
import httpx
import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path as django_path

from presence_server.throttle import Limiter, Rule, SyncLimiter, ThrottledError
from presence_server.throttle.decorators import limit
from presence_server.throttle.headers import QUOTA_EXCEEDED
from presence_server.throttle.wsgi import WsgiThrottle
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.one_kind

RULES = [Rule("api", "4/1h"), Rule("login", "2/1h")]
ROUTES = {"POST /login": ["login", "api"], "/healthz": None, "*": "api"}


def of_flask() -> Any:
    app = flask.Flask(__name__)

    @app.route("/login", methods=["GET", "POST"])
    @app.route("/healthz")
    @app.route("/items/<item>", endpoint="items")
    def said(item: str = "") -> str:
        return "ok"

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("a defect")

    return app


def said(request: HttpRequest, item: str = "") -> HttpResponse:
    return HttpResponse("ok")


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a defect")


urlpatterns = [
    django_path("login", said),
    django_path("healthz", said),
    django_path("items/<item>", said),
    django_path("broken", broken),
]


def of_django() -> Any:
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="not one", LOGGING_CONFIG=None
        )
        django.setup()
    return WSGIHandler()


@pytest.fixture(params=["shared", "alone"])
def limiter(request: pytest.FixtureRequest, empty_server: RedisServer) -> Iterator[SyncLimiter]:
    url = empty_server.url if request.param == "shared" else ""
    with SyncLimiter(RULES, redis=url, deadline_ms=20_000) as limiter:
        yield limiter


@pytest.fixture
def alone() -> Iterator[SyncLimiter]:
    with SyncLimiter(RULES) as limiter:
        yield limiter


def client(app: Any, **options: Any) -> httpx.Client:
    transport = httpx.WSGITransport(
        app=wsgiref.validate.validator(app), raise_app_exceptions=False, **options
    )
    return httpx.Client(transport=transport, base_url="http://test")


@pytest.mark.parametrize("make", [of_flask, of_django])
def test_routes_methods_and_headers(limiter: SyncLimiter, make: Callable[[], Any]) -> None:
    with client(WsgiThrottle(make(), limiter, ROUTES)) as asking:
        first = asking.get("/login")
        assert first.status_code == 200
        assert first.headers["RateLimit"].startswith('"api";r=3;t=')
        refused = [asking.post("/login") for _ in range(3)][-1]
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["RateLimit-Policy"] == '"login";q=2;w=3600, "api";q=4;w=3600'
        assert refused.json()["type"] == QUOTA_EXCEEDED
        assert refused.json()["violated-policies"] == ["login"]
        assert 0 < int(refused.headers["Retry-After"]) <= 3_600
        assert [asking.get("/items/1").status_code for _ in range(2)] == [200, 429]
        free = asking.get("/healthz")
        assert (free.status_code, "RateLimit" in free.headers) == (200, False)


@pytest.mark.parametrize("make", [of_flask, of_django])
def test_failures_and_what_is_not_there_have_the_headers(
    alone: SyncLimiter, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with client(WsgiThrottle(make(), alone, ROUTES)) as asking:
        for path, status, left in [("/broken", 500, 3), ("/nothing", 404, 2)]:
            answer = asking.get(path)
            assert answer.status_code == status
            assert answer.headers["RateLimit"].startswith(f'"api";r={left};')


def plain(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode("latin-1")]


def test_a_pattern_is_matched_against_the_path_within_the_application(alone: SyncLimiter) -> None:
    app = WsgiThrottle(plain, alone, {"/login": "login"})
    with client(app, script_name="/app") as asking:
        assert [asking.get("/login").status_code for _ in range(3)] == [200, 200, 429]
        assert asking.get("/app/login").status_code == 200


def test_the_key_is_the_address_and_behind_a_trusted_proxy_what_that_says(alone: SyncLimiter) -> None:
    with client(WsgiThrottle(plain, alone, "login"), remote_addr="10.0.0.1") as asking:
        answers = [asking.get("/", headers={"X-Forwarded-For": f"6.6.6.{n}"}) for n in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
    app = WsgiThrottle(plain, alone, "login", trusted=["10.0.0.0/8"])
    with client(app, remote_addr="10.0.0.1") as asking:
        for n in range(4):
            assert asking.get("/", headers={"X-Forwarded-For": f"6.6.6.6, 1.2.3.{n}"}).status_code == 200
    with client(WsgiThrottle(plain, alone, "login", key=lambda environ: None)) as asking:
        assert [asking.get("/").status_code for _ in range(4)] == [200] * 4


def test_preflights_do_not_count_and_costs_do(alone: SyncLimiter) -> None:
    app = WsgiThrottle(plain, alone, "api", cost=lambda environ: int(environ.get("HTTP_X_COST", 1)))
    with client(app) as asking:
        asks = {"Origin": "http://page", "Access-Control-Request-Method": "GET"}
        assert [asking.options("/", headers=asks).status_code for _ in range(5)] == [200] * 5
        assert asking.get("/", headers={"X-Cost": "0"}).status_code == 200
        too_much = asking.get("/", headers={"X-Cost": "5"})
        assert too_much.status_code == 413
        assert too_much.headers["RateLimit-Policy"] == '"api";q=4;w=3600'
        assert asking.get("/", headers={"X-Cost": "4"}).status_code == 200
        assert asking.get("/").status_code == 429


def test_two_middlewares_tell_of_both_in_one_field(alone: SyncLimiter) -> None:
    app = WsgiThrottle(WsgiThrottle(plain, alone, "login"), alone, "api")
    with client(app) as asking:
        for status in (200, 200, 429):
            answer = asking.get("/")
            assert answer.status_code == status
            assert answer.headers.get_list("RateLimit-Policy") == ['"api";q=4;w=3600, "login";q=2;w=3600']


def test_a_function_with_a_limit_is_answered_with_429(alone: SyncLimiter) -> None:
    @limit("2/1h", limiter=alone, key="everybody")
    def report() -> list[bytes]:
        return [b"report"]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found = report()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return found

    with client(WsgiThrottle(app, alone, {})) as asking:
        assert [asking.get("/").status_code for _ in range(3)] == [200, 200, 429]

    pages = flask.Flask(__name__)
    pages.add_url_rule("/", "report", lambda: report()[0])

    @pages.errorhandler(ThrottledError)
    def answer(error: ThrottledError) -> Any:
        return error.problem(), error.status, error.headers()

    with client(pages) as asking:
        refused = asking.get("/")
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "3600"


def test_mistakes_are_found_when_it_is_made(alone: SyncLimiter) -> None:
    with pytest.raises(ValueError, match="route '/x': no rule 'lgoin'; there are: api, login"):
        WsgiThrottle(plain, alone, {"/x": "lgoin"})
    with pytest.raises(TypeError, match="a WSGI application needs a SyncLimiter, not a Limiter"):
        WsgiThrottle(plain, Limiter(RULES), "api")  # type: ignore[arg-type]  # that is what is tried


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_under_a_real_server(limiter: SyncLimiter) -> None:
    with make_server(
        "127.0.0.1", 0, WsgiThrottle(plain, limiter, {"/é": "login"}), handler_class=Quiet
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as asking:
            answers = [asking.get("/é") for _ in range(3)]
        server.shutdown()
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert json.loads(answers[2].text)["violated-policies"] == ["login"]
