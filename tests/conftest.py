"""What holds for every test."""

import gc
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from presence_server.redis_io import scripts
from tests.support import fork_server
from tests.support.properties import by_default
from tests.support.redis_server import KINDS, RedisServer

if TYPE_CHECKING:
    from playwright.async_api import Browser

scripts.checks_slots = True
by_default()

if "MUTANT" not in os.environ:  # to compile all of it, asserts rewritten, takes longer than to import it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect no garbage while tests are collected, and do not look at them later: a tenth of that time.

    Meanwhile the process that leads the workers has hypothesis find out what UTF-8 can encode, and keep that in a file:
    on a new machine it would take each worker 3 s.
    """
    if session.config.getoption("numprocesses", None):
        st.characters(codec="utf-8").validate()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test that asks for a server on both kinds, unless it is marked `one_kind`."""
    kinds = KINDS if metafunc.definition.get_closest_marker("one_kind") is None else ["valkey"]
    for fixture in ("server", "shared_server"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, kinds, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin what takes long first, spread over the workers, each of which begins with an equal part of the tests."""
    if "PYTEST_XDIST_WORKER_COUNT" not in os.environ:
        return
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    early = [item for item in items if item.get_closest_marker("early")]
    others = [item for item in items if not item.get_closest_marker("early")]
    part = -(-len(others) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in (*early[worker::workers], *others[worker * part : (worker + 1) * part])
    ]


def pytest_sessionfinish() -> None:
    fork_server.stop()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is; without one the tests are skipped, except where CI is set."""
    from tests.browser.visitor import CHROMIUM_NAMES  # noqa: PLC0415 - most tests need no browser

    for name in CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    reason = f"NO BROWSER, THE PAGE IS NOT TESTED: none of {', '.join(CHROMIUM_NAMES)} is on the PATH"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
async def browser(chromium: str, anyio_backend: str) -> AsyncIterator["Browser"]:
    """One Chromium for all tests: each has contexts of its own in it."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - as above

    from tests.browser.visitor import CHROMIUM_ARGS  # noqa: PLC0415 - as above

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of the test's own, to be broken."""
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that tests do not break."""
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture
def empty_server(shared_server: RedisServer) -> Iterator[RedisServer]:
    """The same, empty; no test may leave a key in it without a TTL."""
    shared_server.ask("FLUSHALL")
    yield shared_server
    assert shared_server.keys_without_ttl() == []
