"""Pages of an application that uses the TypeScript client, in a real Chromium.

async with SdkPages(browser, node.http_url) as pages:
    ann = await pages.open("ann")           # has joined the room `lobby`; `window.client`, `window.room`
    bob = await pages.open("bob")
    await ann.until("room.count === 2")
    assert await ann.heard() == ["join bob"]
"""

import json
import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from playwright.async_api import Browser, BrowserContext, Page, Route

DEADLINE_MS: Final = 30_000
PATH: Final = "/app.html"
SCRIPT: Final = """
import * as sdk from "/static/presence-1.js";
const asked = JSON.parse(new URL(location).searchParams.get("asked"));
window.sdk = sdk;
window.heard = [];
window.states = [];
window.uncaught = [];
addEventListener("error", ({ message }) => uncaught.push(message));
addEventListener("unhandledrejection", ({ reason }) => uncaught.push(String(reason)));
const options = { ...asked.options };
if (window.freshToken) options.getToken = async () => {
  const token = await window.freshToken();
  if (token === "502") throw new Error("502");
  return token;
};
window.client = sdk.connect(asked.url, options);
client.on("status", ({ state }) => states.push(state));
window.listen = (room) => {
  for (const type of ["join", "update", "leave"]) room.on(type, ({ user }) => heard.push(`${type} ${user}`));
  room.on("message", ({ user, data }) => heard.push(`message ${user} ${data}`));
  room.on("signal", ({ user, key, data }) => heard.push(`signal ${user} ${key} ${data}`));
  room.on("removed", (reason) => heard.push(`removed ${reason}`));
  room.on("refused", ({ code }) => heard.push(`refused ${code}`));
  return room;
};
window.room = listen(client.room(asked.room));
if (asked.joins) room.join({ state: { page: 1 } });
window.isOpen = true;
"""
HTML: Final = f"<!doctype html><title>app</title><script type=module>{SCRIPT}</script>"


class SdkPage:
    """One tab with an application in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets = 0
        page.set_default_timeout(DEADLINE_MS)
        page.on("websocket", self._count_socket)

    async def js(self, expression: str, argument: Any = None) -> Any:
        """Evaluate an expression or a function in the page, and wait for what it promises."""
        return await self.page.evaluate(expression, argument)

    async def until(self, expression: str, deadline_ms: float = DEADLINE_MS) -> None:
        """Wait until an expression is true."""
        await self.page.wait_for_function(expression, polling=20, timeout=deadline_ms)

    async def status(self, state: str) -> dict[str, Any]:
        """Wait for a state of the client; return its status."""
        await self.until(f"client.status.state === {json.dumps(state)}")
        found: dict[str, Any] = await self.js("client.status")
        return found

    async def heard(self) -> list[str]:
        """Return what the room told this page, but for its own entry."""
        found: list[str] = await self.js("heard")
        return found

    def _count_socket(self, _: object) -> None:
        self.sockets += 1


class SdkPages:
    """Opens tabs; closes their profiles at its end."""

    def __init__(self, browser: Browser, http_url: str, room: str = "lobby") -> None:
        self._browser = browser
        self._http_url = http_url
        self._room = room
        self._profiles = AsyncExitStack()

    async def profile(self, **options: Any) -> BrowserContext:
        """Make a browser profile, which has the application at `PATH`."""
        profile = await self._browser.new_context(**options)
        self._profiles.push_async_callback(profile.close)
        # A page that no server has sent counts as one of the internet, which may not reach this machine by itself.
        await profile.grant_permissions(["local-network-access"])
        await profile.route(re.compile(re.escape(PATH)), fulfil)
        return profile

    def address(self, user: str | None, *, url: str = "/ws", joins: bool = True, **options: Any) -> str:
        """Return where the application is, with what it is to do."""
        named = options if user is None else {"user": user, **options}
        asked = json.dumps({"url": url, "room": self._room, "joins": joins, "options": named})
        return f"{self._http_url}{PATH}?asked={asked}"

    async def open(
        self,
        user: str | None,
        *,
        profile: BrowserContext | None = None,
        url: str = "/ws",
        joins: bool = True,
        awaited: bool = True,
        **options: Any,
    ) -> SdkPage:
        """Open the application in a tab; `awaited`: wait until its room is there."""
        page = SdkPage(await (profile or await self.profile()).new_page())
        await page.page.goto(self.address(user, url=url, joins=joins, **options))
        await page.until("window.isOpen")
        if awaited:
            await page.until("!room.stale" if joins else "client.status.state === 'connected'")
        return page

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._profiles.aclose()


async def fulfil(route: Route) -> None:
    """Answer with the application."""
    await route.fulfill(content_type="text/html; charset=utf-8", body=HTML)
