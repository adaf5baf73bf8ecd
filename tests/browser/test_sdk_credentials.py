"""The TypeScript client in a page brings fresh credentials, for as long as they are to be had."""

import time
from collections.abc import AsyncIterator, Callable

import pytest
from playwright.async_api import Browser, BrowserContext

from tests.browser.sdk_page import SdkPages
from tests.support.api import call
from tests.support.node import Node
from tests.support.signing import SECRET, token
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

LIFE_S = 8
AUTH = ("--auth.mode", "jwt", "--auth.secret", SECRET)
BROKEN = "502"


@pytest.fixture(scope="module")
async def strict(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node that asks for credentials."""
    async with Node(tmp_path_factory.mktemp("strict"), *AUTH) as node:
        yield node


async def asking(pages: SdkPages, fresh: Callable[[], str | None]) -> BrowserContext:
    """Return a profile whose pages ask `fresh` for tokens."""
    profile = await pages.profile()
    await profile.expose_function("freshToken", fresh)
    return profile


async def test_a_token_is_renewed_though_the_first_tries_fail_and_nobody_sees_it(
    browser: Browser, strict: Node, room: str
) -> None:
    asked = 0

    def fresh() -> str:
        nonlocal asked
        asked += 1
        return BROKEN if asked in {1, 3, 4, 6} else token(sub="ann", exp=time.time() + LIFE_S)

    async with SdkPages(browser, strict.http_url, room) as pages:
        eve = await pages.open(None, token=token(sub="eve"))
        page = await pages.open(None, profile=await asking(pages, fresh))
        await eve.until("heard.includes('join ann')")
        cid = await page.js("client.cid")
        await eventually(lambda: page.js("client.status.state"), lambda _: asked >= 8)
        assert await page.js("[client.cid, client.status.state, room.stale]") == [cid, "connected", False]
        assert await eve.heard() == ["join ann"]
        assert (await page.js("states")).count("connected") == 1


async def test_a_page_whose_token_is_refused_asks_once_for_another(
    browser: Browser, strict: Node, room: str
) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append("old" if len(given) != 1 else token(sub="ann"))
        return given[-1]

    async with SdkPages(browser, strict.http_url, room) as pages:
        page = await pages.open(None, profile=await asking(pages, fresh))
        assert len(given) == 2
        assert await page.js("client.welcome.user") == "ann"

    given.clear()
    async with SdkPages(browser, strict.http_url, room) as pages:
        given.extend(["", ""])  # from now on none is good
        page = await pages.open(None, profile=await asking(pages, fresh), awaited=False)
        assert (await page.status("stopped"))["code"] == 4001
        assert given[2:] == ["old", "old"]


async def test_a_page_that_gets_no_token_stops(browser: Browser, strict: Node, room: str) -> None:
    async with SdkPages(browser, strict.http_url, room) as pages:
        page = await pages.open(None, profile=await asking(pages, lambda: None), awaited=False)
        assert (await page.status("stopped"))["code"] == 4001
        assert page.sockets == 0


async def test_a_removal_ends_one_room_and_not_the_page(browser: Browser, node: Node, room: str) -> None:
    async with SdkPages(browser, node.http_url, room) as pages:
        page = await pages.open("ann")
        await page.js("client.join(room.name + '-2').ready")
        cid = await page.js("client.cid")
        await call(node, "DELETE", f"/v1/rooms/{room}/members/{cid}")
        await page.until("heard.includes('removed kicked')")
        assert await page.js("[room.isEntered, client.status.state]") == [False, "connected"]
        await page.js("client.room(room.name + '-2').publish('still here')")
