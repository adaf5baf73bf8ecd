"""The OpenAPI document is the truth: everything in it is so, and everything that is so is in it."""

import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from presence_server.api.calls import ROUTES
from tests.api.conftest import KEY, RULES
from tests.support.api import call
from tests.support.effort import THOROUGH, effort
from tests.support.node import Node
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parent / "schemathesis.toml"
EXAMPLES = {"memory": effort(2, 4), "redis": effort(4, 8)}
PHASES = {
    "memory": "fuzzing,stateful",
    "redis": ["fuzzing,stateful", "examples,coverage,fuzzing,stateful"][THOROUGH],
}
"""The bounds of each field, which take longest, are looked at once: they are not the store's."""
REFERENCE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture(params=["memory", "redis"])
async def described(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    """A server with a key and a rule for backends."""
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    async with AsyncExitStack() as stack:
        args = ["--config", str(config), "--api.key", KEY]
        if request.param != "memory":
            args += ["--redis.url", stack.enter_context(RedisServer(request.param)).url]
        yield await stack.enter_async_context(Node(tmp_path, *args))


async def run(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a program; return its exit code and what it wrote."""
    done = await anyio.run_process(command, check=False, cwd=folder, env=os.environ | {"COLUMNS": "200"})
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.early
async def test_nothing_is_found_that_differs_from_the_document(described: Node, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += [f"{described.api_url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"]
    backend = "redis" if "--redis.url" in described.args else "memory"
    command += ["--phases", PHASES[backend], "--max-examples", str(EXAMPLES[backend])]
    command += ["--generation-deterministic", "--no-color"]
    with anyio.fail_after(900):
        code, text = await run(command, tmp_path)
    assert code == 0, text
    tested = re.search(r"Tested: (\d+)", text)
    assert tested is not None
    assert int(tested[1]) == len(ROUTES)
    assert "failed" not in described.log


async def test_the_calls_that_answer_with_rate_limit_fields_are_described_with_them(node: Node) -> None:
    paths = (await call(node, "GET", "/openapi.json")).body["paths"]
    described = {
        (path, status)
        for path, operations in paths.items()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if "RateLimit-Policy" in response.get("headers", {})
    }
    assert described == {
        ("/v1/throttle/hit", "200"),
        ("/v1/throttle/hit", "429"),
        ("/v1/throttle/check", "200"),
        ("/v1/throttle/check", "429"),
        ("/v1/throttle/auth", "204"),
        ("/v1/throttle/auth", "429"),
    }


async def test_the_document_needs_no_key_and_says_where_one_is_needed(node: Node, keyed: Node) -> None:
    with_key = (await call(keyed, "GET", "/openapi.json")).body
    without = (await call(node, "GET", "/openapi.json")).body
    assert with_key["security"] == [{"key": []}]
    assert "security" not in without
    assert with_key["paths"] == without["paths"]
    assert with_key["openapi"] == "3.1.0"


async def test_the_document_has_every_call_with_its_bodies(node: Node) -> None:
    paths = (await call(node, "GET", "/openapi.json")).body["paths"]
    assert {(method.upper(), path) for path, item in paths.items() for method in item} == {
        (route.method, route.path) for route in ROUTES
    }
    for item in paths.values():
        for operation in item.values():
            assert operation["summary"]
            assert any(status.startswith("2") for status in operation["responses"])
            assert {"400", "503"} <= operation["responses"].keys()


def test_the_reference_page_has_every_call() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([A-Z]+) (/v1/[^`? ]+)[^`]*` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted((route.method, route.path) for route in ROUTES)
