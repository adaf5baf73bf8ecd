"""The programs and applications of docs/limiter.md do what the page says."""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from presence_server.throttle import Limiter, SyncLimiter
from presence_server.throttle.decorators import limit
from tests.docs.pages import PROJECT, code, read, rows, section

PAGE = read("docs/limiter.md")


def example(heading: str, number: int = 0) -> str:
    return code(section(PAGE, heading), "python")[number]


def printed(program: str, directory: Path) -> list[str]:
    """Run a program in an interpreter of its own; return the lines that it prints."""
    file = directory / "program.py"
    file.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)],
        env={"PYTHONPATH": f"{PROJECT}:{directory}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def names_of(program: str) -> dict[str, Any]:
    """Run a program here; return its names."""
    # FastAPI looks the annotations of nested functions up in the module that they say they are of.
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(program, "docs/limiter.md", "exec"), names)  # noqa: S102 - the page is ours
    return names


def test_the_first_example_admits_five_and_refuses_the_rest(tmp_path: Path) -> None:
    lines = printed(example("## Quick start"), tmp_path)
    assert [line.split()[1] for line in lines[:-1]] == ["True"] * 5 + ["False"] * 2
    assert "Retry-After" in lines[6]
    assert lines[-1] == "5"


def test_so_does_the_one_without_async(tmp_path: Path) -> None:
    lines = printed(example("## Without async"), tmp_path)
    assert [line.split()[1] for line in lines] == ["True"] * 5 + ["False"] * 2


def test_functions_are_held_to_each_users_plan_and_give_back_what_they_do_not_use(tmp_path: Path) -> None:
    assert printed(example("## Functions"), tmp_path) == ["alice 5 60", "bob 2 60", "99"]


async def statuses(app: Any, method: str, path: str, count: int, **options: Any) -> list[int]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
        return [(await asking.request(method, path, **options)).status_code for _ in range(count)]


@pytest.mark.anyio
async def test_the_dependencies_limit_their_routes() -> None:
    app = names_of(example("## FastAPI"))["app"]
    assert await statuses(app, "POST", "/login", 6) == [200] * 5 + [429]
    assert await statuses(app, "GET", "/search", 12) == [200] * 12
    headers = {"x-customer": "ann"}
    assert await statuses(app, "GET", "/search?cached=true", 12, headers=headers) == [200] * 12
    assert await statuses(app, "GET", "/search", 11, headers=headers) == [200] * 10 + [429]


@pytest.mark.anyio
async def test_the_middleware_limits_all() -> None:
    app = names_of(example("## FastAPI", 1))["app"]
    app.post("/login")(lambda: "welcome")
    assert await statuses(app, "POST", "/login", 6) == [200] * 5 + [429]
    assert await statuses(app, "GET", "/login", 1) == [405]


def asked(app: Any, method: str, path: str, count: int) -> list[int]:
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://test") as asking:
        return [asking.request(method, path).status_code for _ in range(count)]


def test_the_flask_application_is_limited() -> None:
    app = names_of(example("## Flask"))["app"]
    assert asked(app, "POST", "/login", 6) == [200] * 5 + [429]
    assert asked(app, "GET", "/other", 1) == [404]


def test_the_django_project_is_limited(tmp_path: Path) -> None:
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "__init__.py").touch()
    (site / "settings.py").write_text(
        'ROOT_URLCONF = "mysite.urls"\nALLOWED_HOSTS = ["*"]\nSECRET_KEY = "none"\n'
    )
    (site / "urls.py").write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\n"
        'urlpatterns = [path("login/", lambda request: HttpResponse("welcome"))]\n'
    )
    (site / "wsgi.py").write_text(example("## Django"))
    program = """
import httpx
from mysite.wsgi import application

with httpx.Client(transport=httpx.WSGITransport(app=application), base_url="http://test") as asking:
    print(*(asking.post("/login/").status_code for _ in range(6)))

import asyncio
from django.core.asgi import get_asgi_application
from mysite.wsgi import routes
from presence_server.throttle import Limiter, Rule
from presence_server.throttle.asgi import Throttle

async def main():
    limiter = Limiter([Rule("api", "100/minute"), Rule("login", "5/minute")])
    transport = httpx.ASGITransport(Throttle(get_asgi_application(), limiter, routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
        print(*[(await asking.post("/login/")).status_code for _ in range(6)])

asyncio.run(main())
"""
    assert printed(program, tmp_path) == ["200 200 200 200 200 429"] * 2


def test_every_call_in_the_table_is_there_with_these_arguments() -> None:
    called = [cell for cells in rows(section(PAGE, "## Calls")) for cell in cells[:1] if "(" in cell]
    assert len(called) >= 13
    for cell in called:
        for call in cell.split("`")[1::2]:
            name, _, arguments = call.partition("(")
            alone = {"aclose": (Limiter,), "slot": (Limiter,), "close": (SyncLimiter,)}
            kinds = alone.get(name, (Limiter, SyncLimiter))
            for kind in kinds:
                if name == "SyncLimiter":
                    continue
                parameters = parameters_of(getattr(kind, name))
                given = [part.partition("=")[0] for part in arguments.rstrip(")").split(", ") if part]
                assert set(given) <= set(parameters), f"{kind.__name__}.{call}"


def test_every_argument_of_limit_is_in_its_table() -> None:
    table = {cells[0].strip("`") for cells in rows(section(PAGE, "## Functions"))}
    assert parameters_of(limit).keys() - {"rule"} == table - {"the first", "argument of `limit"}


def parameters_of(function: Any) -> Mapping[str, Any]:
    return inspect.signature(function).parameters
