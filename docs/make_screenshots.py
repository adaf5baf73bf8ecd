"""Make docs/images/ from the real demo page: two nodes on a Valkey, up to 40 people, and a server that goes away.

From the project's root: make screenshots, or python -m docs.make_screenshots [FOLDER]
"""

import json
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path
from typing import Final

import anyio
from PIL import Image
from playwright.async_api import async_playwright, expect
from websockets.asyncio.client import connect

from tests.browser.visitor import CHROMIUM_ARGS, CHROMIUM_NAMES, Tab, Visitors
from tests.support.node import Node
from tests.support.redis_server import RedisServer

FOLDER: Final = Path(__file__).with_name("images")
PICTURE_BYTES_MAX: Final = 150_000
SIZES: Final = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
THEMES: Final = ("light", "dark")
ROOM: Final = "design-review"
NOTES: Final = {
    "Ada": [(0.06, 0.1, "Ship the second draft on Thursday"), (0.45, 0.95, "Who writes the release notes?")],
    "Grace": [
        (0.5, 0.02, "Does it hold when the plug is pulled?"),
        (0.98, 0.72, "Ask Katherine about the tides"),
    ],
    "Linus": [
        (0.86, 0.22, "Twice. Nobody saw me leave"),
        (0.02, 0.68, "Two steps less than the first draft"),
    ],
}
CHAT: Final = (
    ("Grace", "Morning! The second draft is up."),
    ("Linus", "Two steps less than the first. I like it."),
    ("Ada", "Same here. Does it hold when a connection drops?"),
    ("Linus", "Pulled the plug twice. Nobody even saw me leave."),
)
CROWD: Final = (
    *(
        "Margaret",
        "Katherine",
        "Annie",
        "Dorothy",
        "Mary",
        "Barbara",
        "Radia",
        "Frances",
        "Jean",
        "Betty",
        "Marlyn",
    ),
    *(
        "Kathleen",
        "Ruth",
        "Sophie",
        "Evelyn",
        "Joan",
        "Hedy",
        "Karen",
        "Lynn",
        "Adele",
        "Shafi",
        "Leslie",
        "Dennis",
    ),
    *(
        "Ken",
        "Edsger",
        "Donald",
        "Niklaus",
        "Tony",
        "Alan",
        "Claude",
        "John",
        "Kurt",
        "Emmy",
        "Haskell",
        "Alonzo",
    ),
    *("Rózsa", "Stephen"),
)


class Photographer:
    """Takes what Ada sees, in each theme and size."""

    def __init__(self, ada: Tab, folder: Path) -> None:
        self._ada = ada
        self._folder = folder

    async def take(self, name: str, *, sizes: tuple[str, ...] = tuple(SIZES)) -> None:
        """Save what is shown as NAME-SIZE-THEME.png."""
        page = self._ada.page
        for size in sizes:
            await page.set_viewport_size(SIZES[size])  # type: ignore[arg-type]  # a map, as good as its TypedDict
            for theme in THEMES:
                await page.emulate_media(color_scheme=theme)
                save(
                    await page.screenshot(animations="disabled"), self._folder / f"{name}-{size}-{theme}.png"
                )
        await page.set_viewport_size(SIZES["desktop"])  # type: ignore[arg-type]  # as above


def save(png: bytes, file: Path) -> None:
    """Save a picture with a palette: the page has few colours."""
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
        ).save(file, optimize=True)
    if file.stat().st_size > PICTURE_BYTES_MAX:
        sys.exit(f"{file} is larger than {PICTURE_BYTES_MAX} bytes")


async def put_notes(visitors: Visitors) -> None:
    """Have everybody's notes on the board, where they look well."""
    for tab in visitors.tabs:
        notes = [
            {"id": f"{tab.name}{n}", "x": x, "y": y, "text": text}
            for n, (x, y, text) in enumerate(NOTES[tab.name])
        ]
        key = f"presence.demo.notes {tab.name}"
        await tab.evaluate(f"sessionStorage.setItem({json.dumps(key)}, {json.dumps(json.dumps(notes))})")
        await tab.page.reload()
        await tab.is_connected()


async def point(ada: Tab, others: list[Tab]) -> None:
    """Have the others' cursors on the board, just moved."""
    for tab, (x, y) in zip(others, ((0.33, 0.46), (0.68, 0.6)), strict=True):
        await tab.points_at(x - 0.01, y)
        await tab.points_at(x, y)
    await expect(ada.page.locator(".cursor:not(.own)")).to_have_count(len(others))


async def come(stack: AsyncExitStack, node: Node, names: tuple[str, ...]) -> None:
    """Let so many people come in who have no page."""
    for number, name in enumerate(names):
        socket = await stack.enter_async_context(connect(f"{node.ws_url}?user={name.lower()}"))
        welcome = json.loads(await socket.recv())
        state = {"name": name, "node": welcome["node"], "status": "away" if number % 5 == 3 else "here"}
        await socket.send(json.dumps({"t": "join", "room": ROOM, "state": state, "mode": "none"}))


async def play(first: Node, second: Node, visitors: Visitors, elsewhere: Visitors, folder: Path) -> None:
    """Play the scenes and take the pictures."""
    ada = await visitors.arrive("Ada", viewport=SIZES["desktop"], device_scale_factor=2)
    photographer = Photographer(ada, folder)
    await photographer.take("alone", sizes=("desktop",))
    others = [await elsewhere.arrive("Grace"), await elsewhere.arrive("Linus")]
    tabs = {tab.name: tab for tab in (ada, *others)}
    await ada.sees_people({"Ada": 1, "Grace": 1, "Linus": 1})
    await put_notes(visitors)
    await put_notes(elsewhere)
    await expect(ada.notes).to_have_count(4)
    for said, (name, text) in enumerate(CHAT, start=1):
        await tabs[name].says(text)
        await expect(ada.messages).to_have_count(said)
    await ada.page.locator("#text").blur()
    await others[0].page.locator("#text").press_sequentially("Ship")
    await point(ada, others)
    await others[1].page.get_by_role("button", name="Send a heart").click()
    await expect(ada.page.locator(".reaction")).to_have_count(1)
    await photographer.take("three")
    async with AsyncExitStack() as stack:
        await come(stack, second, CROWD)
        await expect(ada.page.locator("#faces .more")).to_have_text("+37")
        await expect(ada.events.last).to_contain_text("37 people joined")
        await point(ada, others)
        await photographer.take("forty", sizes=("desktop",))
        async with ada.sheet():
            await expect(ada.people).to_have_count(40)
            await photographer.take("forty-sheet")
    await ada.page.get_by_role("button", name="Hammer the server").click()
    await expect(ada.page.locator("#throttle")).to_have_attribute("data-phase", "recovering")
    await photographer.take("limited", sizes=("desktop",))
    await first.stop()
    await expect(ada.toast).to_contain_text("The server is restarting")
    await photographer.take("restarting")
    await first.start()
    await ada.reconnects()
    first.kill()
    await first.wait()
    await expect(ada.toast).to_contain_text("The server does not answer")
    await photographer.take("lost")


async def main() -> None:
    """Start the servers and the browser, and take the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(exist_ok=True)
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        sys.exit(f"the pictures need one of {', '.join(CHROMIUM_NAMES)}")
    with tempfile.TemporaryDirectory() as directory, RedisServer("valkey") as store:
        first, second = (Node(Path(directory), "--redis.url", store.url) for _ in range(2))
        first.unthrottled = False
        await first.start()
        async with second, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
            async with (
                Visitors(browser, first.http_url, ROOM) as visitors,
                Visitors(browser, second.http_url, ROOM) as elsewhere,
            ):
                await play(first, second, visitors, elsewhere, folder)
            await browser.close()


if __name__ == "__main__":
    anyio.run(main)
