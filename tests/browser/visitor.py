"""People who visit the demo page in a real Chromium: what they do, and what they see.

async with Visitors(browser, node.http_url, "lobby") as visitors:
    ada = await visitors.arrive("Ada")
    bob = await visitors.arrive("Bob")
    await bob.sees_people({"Ada": 1, "Bob": 1})
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import anyio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

CHROMIUM_NAMES: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first needs a third of the processor time of the others, which make the windows of a whole browser."""
CHROMIUM_ARGS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEADLINE_MS: Final = 60_000
SOCKET_LOST: Final = "WebSocket connection to"
"""How Chromium starts its console message about a server that is not there."""

expect.set_options(timeout=DEADLINE_MS)


class Tab:
    """One tab with the page in it."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.complaints: list[str] = []
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"{name}: {error}"))

    @property
    def connection(self) -> Locator:
        """The element that says how the connection is."""
        return self.page.locator("#connection")

    @property
    def log(self) -> Locator:
        """The chat."""
        return self.page.locator("#log")

    @property
    def events(self) -> Locator:
        """The chat's lines about who came and went."""
        return self.page.locator("#log .event")

    @property
    def messages(self) -> Locator:
        """What was said, without who and when."""
        return self.page.locator("#log .message > p")

    @property
    def typing(self) -> Locator:
        """The line that says who is typing."""
        return self.page.locator("#typing")

    @property
    def notes(self) -> Locator:
        """What is written on the others' notes."""
        return self.page.locator(".note:not(.own) > p")

    @property
    def toast(self) -> Locator:
        """What lies over the board while something is wrong with the connection."""
        return self.page.locator("#toast.shown")

    @property
    def people(self) -> Locator:
        """The rows of the sheet, while it is open."""
        return self.page.locator("#people > li")

    def person(self, name: str) -> Locator:
        """The row of one person, while the sheet is open."""
        return self.people.filter(has=self.page.get_by_text(name, exact=True))

    def cursor(self, user: str) -> Locator:
        """The cursors of one person."""
        return self.page.locator("#cursors .cursor").filter(has=self.page.get_by_text(user, exact=True))

    async def is_connected(self) -> None:
        """Wait until the connection is up and the room is there."""
        await expect(self.connection).to_have_attribute("data-state", "connected")
        await expect(self.page.locator("#tally")).not_to_be_empty()

    @asynccontextmanager
    async def sheet(self) -> AsyncIterator[None]:
        """Have the sheet with all people open."""
        await self.page.evaluate("document.querySelector('#stack').click()")
        yield
        await self.page.evaluate("document.querySelector('#people-sheet').close()")

    async def sees_people(self, people: dict[str, int]) -> None:
        """Wait until exactly these people are listed, with so many connections each."""
        async with self.sheet():
            await expect(self.people).to_have_count(len(people))
            for name, connections in people.items():
                status = self.person(name).locator(".status")
                tabs = re.compile(
                    f", {connections} tabs$" if connections > 1 else "(here|away|reconnecting)$"
                )
                await expect(status).to_have_text(tabs)
            heading = f"{len(people)} {'person' if len(people) == 1 else 'people'} here"
            await expect(self.page.locator("#people-heading")).to_have_text(heading)

    async def points_at(self, x: float, y: float) -> None:
        """Move the pointer to a place on the board, both from 0 to 1."""
        box = await self.page.locator("#board").bounding_box()
        assert box is not None
        await self.page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=4)

    async def says(self, text: str) -> None:
        """Send a chat message."""
        await self.page.fill("#text", text)
        await self.page.press("#text", "Enter")

    async def writes(self, text: str) -> None:
        """Put a note with this text on the board."""
        await self.page.click("#add-note")
        await self.page.locator(".note.own textarea").last.fill(text)

    async def reconnects(self) -> None:
        """Have it connect now, instead of when its backoff ends."""
        await self.page.evaluate("document.querySelector('#reconnect').click()")
        await self.is_connected()

    async def hides(self, *, hidden: bool = True) -> None:
        """Make the page believe that its tab went to the background, or came back."""
        await self.page.evaluate(
            """hidden => {
                Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )

    async def evaluate(self, script: str) -> Any:
        """Run a script in the page, and wait for what it promises."""
        with anyio.fail_after(DEADLINE_MS / 1000):
            return await self.page.evaluate(script)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{self.name}: {message.text}")


class Visitors:
    """Everybody who visits one room of one server; closes their browser profiles at its end."""

    def __init__(self, browser: Browser, http_url: str, room: str) -> None:
        self.room = room
        self.http_url = http_url
        self.tabs: list[Tab] = []
        self._browser = browser
        self._profiles: list[BrowserContext] = []

    async def profile(self, **options: Any) -> BrowserContext:
        """Make a fresh browser profile."""
        profile = await self._browser.new_context(**options)
        self._profiles.append(profile)
        return profile

    async def open(self, profile: BrowserContext, name: str = "") -> Tab:
        """Open the page in another tab of a profile: as its own person, or as one of this name."""
        tab = Tab(await profile.new_page(), name)
        self.tabs.append(tab)
        query = f"?{urlencode({'as': name})}" if name else ""
        await tab.page.goto(f"{self.http_url}/{query}#{self.room}")
        return tab

    async def arrive(self, name: str, **options: Any) -> Tab:
        """Visit the room under this name from a browser of one's own, and wait until connected."""
        tab = await self.open(await self.profile(**options), name)
        await tab.is_connected()
        return tab

    def assert_no_complaints(self, but: str | None = None) -> None:
        """Fail if a tab logged an error or a warning, other than ones that start with `but`."""
        heard = [line for tab in self.tabs for line in tab.complaints]
        assert [line for line in heard if but is None or not line.partition(": ")[2].startswith(but)] == []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for profile in self._profiles:
            await profile.close()
