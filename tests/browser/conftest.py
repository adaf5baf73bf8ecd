"""A node for all tests of the page; every test has a room of its own."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.browser.sdk_page import SdkPages
from tests.browser.visitor import Visitors
from tests.support.node import Node


@pytest.fixture(scope="session")
async def node(
    chromium: str, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    async with Node(tmp_path_factory.mktemp("browser")) as node:
        yield node


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z0-9_]", "-", request.node.name)[:160]


@pytest.fixture
async def visitors(browser: Browser, node: Node, room: str) -> AsyncIterator[Visitors]:
    """Visitors of this test's room; at its end none of their tabs may have complained."""
    async with Visitors(browser, node.http_url, room) as visitors:
        yield visitors
        visitors.assert_no_complaints()


@pytest.fixture
async def sdk(browser: Browser, node: Node, room: str) -> AsyncIterator[SdkPages]:
    """Pages of an application with the TypeScript client, in this test's room of the node for all tests."""
    async with SdkPages(browser, node.http_url, room) as pages:
        yield pages
