"""What a program loads that asks for the library, or for the client, and for nothing else."""

import subprocess
import sys

import pytest

from tests.docs.pages import PROJECT

HEAVY = {
    "anyio",
    "cryptography",
    "django",
    "fastapi",
    "flask",
    "hiredis",
    "ipaddress",
    "jwt",
    "msgspec",
    "prometheus_client",
    "redis",
    "starlette",
    "structlog",
    "uvicorn",
    "uvloop",
    "websockets",
}
LIBRARY = {
    "presence_server",
    "presence_server.errors",
    "presence_server.faults",
    "presence_server.rates",
    "presence_server.timers",
    "presence_server.throttle",
}
CLIENT = {"presence_server", "presence_server.client", "presence_server.errors", "presence_server.protocol"}
HIT = """
from presence_server.throttle import Limiter, Rule, SyncLimiter
import asyncio

with SyncLimiter([Rule("r", "5/1h")]) as limiter:
    limiter.hit("r", "k")
asyncio.run(Limiter([Rule("r", "5/1h")]).hit("r", "k"))
"""


def loaded(program: str) -> set[str]:
    """Return the modules that a program has loaded at its end."""
    code = f"{program}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=PROJECT
    )
    return set(done.stdout.split())


def ours(modules: set[str], allowed: set[str]) -> set[str]:
    """Return the project's modules that are in none of the allowed packages."""
    names = {name for name in modules if name.partition(".")[0] == "presence_server"}
    return {
        name
        for name in names
        if name not in allowed and name.rpartition(".")[0] not in allowed - {"presence_server"}
    }


@pytest.mark.parametrize(
    "program",
    [
        "import presence_server.throttle",
        HIT,
        "from presence_server.throttle.decorators import limit",
        "from presence_server.throttle.asgi import Throttle",
        "from presence_server.throttle.wsgi import WsgiThrottle",
    ],
    ids=["import", "hit", "decorators", "asgi", "wsgi"],
)
def test_the_library_loads_nothing_of_the_server_and_nothing_heavy(program: str) -> None:
    modules = loaded(program)
    assert not ours(modules, LIBRARY)
    assert not HEAVY & modules


def test_redis_is_loaded_for_a_url_only() -> None:
    made = "from presence_server.throttle import Limiter\nLimiter(redis={!r})"
    assert "redis" not in loaded(made.format(""))
    modules = loaded(made.format("redis://127.0.0.1:1"))
    assert "redis" in modules
    assert not {"starlette", "uvicorn", "websockets", "prometheus_client"} & modules  # redis-py loads jwt


def test_the_dependencies_for_fastapi_load_starlette_and_not_fastapi() -> None:
    modules = loaded("from presence_server.throttle.fastapi import limited")
    assert "starlette" in modules
    assert not {"fastapi", "redis", "uvicorn", "websockets", "structlog"} & modules


def test_the_client_loads_nothing_of_the_server_and_until_it_connects_nothing_that_connects() -> None:
    modules = loaded("from presence_server.client import connect\nconnect('ws://127.0.0.1:1/ws')")
    assert not ours(modules, CLIENT)
    assert not (HEAVY - {"anyio", "ipaddress", "msgspec"} | {"asyncio", "socket", "ssl"}) & modules


def test_a_rule_needs_neither_an_event_loop_nor_redis() -> None:
    modules = loaded("import presence_server.throttle.rule")
    assert ours(modules, {"presence_server", "presence_server.rates"}) <= {
        "presence_server.throttle",
        "presence_server.throttle.calendar",
        "presence_server.throttle.rule",
    }
    assert not {"asyncio", "redis", "msgspec", "zoneinfo"} & modules
