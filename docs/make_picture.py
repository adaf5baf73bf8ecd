"""Make docs/demo.png from the real page: a server, four people, their pointers and their chat.

From the project's root: python -m docs.make_picture [FILE] [light|dark]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import anyio
from playwright.async_api import async_playwright, expect

from tests.browser.visitor import CHROMIUM_ARGS, CHROMIUM_NAMES, Tab, Visitors
from tests.support.node import Node

PICTURE = Path(__file__).with_name("demo.png")
PICTURE_BYTES_MAX = 300_000
SIZE = {"width": 1280, "height": 800}
ROOM = "design-review"


async def visit(visitors: Visitors, name: str, tabs: int) -> list[Tab]:
    """Let one person come in with so many tabs."""
    profile = await visitors.profile(name)
    opened = []
    for _ in range(tabs):
        tab = await visitors.open(profile, name)
        await tab.is_connected()
        opened.append(tab)
    return opened


async def take(visitors: Visitors, picture: Path, scheme: str) -> None:
    """Play the scene and save what Ada sees of it."""
    ada = await visitors.arrive("Ada", viewport=SIZE, color_scheme=scheme)
    grace, _ = await visit(visitors, "Grace", 2)
    (linus,) = await visit(visitors, "Linus", 1)
    margaret, _, _ = await visit(visitors, "Margaret", 3)
    katherine = (await visit(visitors, "Katherine", 1))[0]
    everybody = {"Ada": 1, "Grace": 2, "Linus": 1, "Margaret": 3, "Katherine": 1}
    await ada.sees_people(everybody)
    chat = [
        (grace, "Morning! The second draft is up."),
        (linus, "Two steps less than the first. I like it."),
        (ada, "Same here. Margaret, does it hold when a connection drops?"),
        (margaret, "Pulled the plug twice."),
        (margaret, "Nobody even saw me leave."),
    ]
    for said, (tab, text) in enumerate(chat, start=1):
        await tab.says(text)
        await expect(ada.messages).to_have_count(said)
        await expect(margaret.messages).to_have_count(said)
    await katherine.hides()
    await expect(ada.person("Katherine").locator(".status")).to_have_text("away")
    for tab, x, y in ((ada, 0.5, 0.5), (grace, 0.24, 0.27), (linus, 0.58, 0.44), (margaret, 0.36, 0.71)):
        await tab.points_at(x, y)
    await expect(ada.page.locator("#cursors .cursor")).to_have_count(3)
    await ada.page.locator("#text").blur()
    await grace.page.locator("#text").press_sequentially("Ship")
    await expect(ada.typing).to_have_text("Grace is typing")
    await ada.page.screenshot(path=picture, animations="disabled")


async def main() -> None:
    """Start the server and the browser, and take the picture."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    scheme = sys.argv[2] if len(sys.argv) > 2 else "light"
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        sys.exit(f"the picture needs one of {', '.join(CHROMIUM_NAMES)}")
    with tempfile.TemporaryDirectory() as directory:
        async with Node(Path(directory)) as node, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
            async with Visitors(browser, node.http_url, ROOM) as visitors:
                await take(visitors, picture, scheme)
                visitors.assert_no_complaints()
            await browser.close()
    if picture.stat().st_size > PICTURE_BYTES_MAX:
        sys.exit(f"{picture} is larger than {PICTURE_BYTES_MAX} bytes")


if __name__ == "__main__":
    anyio.run(main)
