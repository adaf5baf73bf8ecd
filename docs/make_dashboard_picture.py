"""Make docs/images/dashboard.png from the real dashboard: three nodes on a Valkey, rooms, talk, and somebody refused.

From the project's root: python -m docs.make_dashboard_picture [FILE] [light|dark] [WIDTH]
"""

import random
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import anyio
from playwright.async_api import Page, async_playwright, expect

from presence_server.client import ClientError, Room, connect
from tests.browser.visitor import CHROMIUM_ARGS, CHROMIUM_NAMES
from tests.support.node import Node
from tests.support.redis_server import RedisServer

PICTURE = Path(__file__).parent / "images" / "dashboard.png"
PICTURE_BYTES_MAX = 300_000
HEIGHT = 1180
ROOMS = {
    "support/queue": 24,
    "board:q3-plan": 14,
    "doc-4711": 9,
    "lobby": 18,
    "game.arena-7": 12,
    "standup": 5,
}
TALK_S = 75.0
LIMITS = ("--throttle.publishes", "8/10s", "--throttle.concurrent_per_ip", "0", "--throttle.connect", "")


async def talk(room: Room, hasty: bool) -> None:
    """Publish now and then, or too much, for ever."""
    for number in count():
        await anyio.sleep(random.uniform(0.3, 0.9) if hasty else random.uniform(2, 9))  # noqa: S311 - no secret
        try:
            await room.publish({"text": f"message {number}"})
        except ClientError:
            continue


async def play(nodes: list[Node]) -> None:
    """Let people come into the rooms, over all nodes, and talk for ever."""
    number = 0
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        for name, people in ROOMS.items():
            for _ in range(people):
                number += 1
                url = nodes[number % len(nodes)].ws_url
                client = await stack.enter_async_context(connect(url, user=f"user-{number:03}"))
                room = await client.join(name, state={"status": "here"})
                tasks.start_soon(talk, room, number % 29 == 0)
                await anyio.sleep(0.1)
        await anyio.sleep_forever()


async def take(page: Page, node: Node, picture: Path) -> None:
    """Open the dashboard and save what it shows."""
    await page.goto(f"{node.api_url}/")
    await expect(page.locator("#rooms tbody tr")).to_have_count(len(ROOMS), timeout=30_000)
    await expect(page.locator("#throttled button").first).to_be_visible(timeout=30_000)
    await page.screenshot(path=picture, animations="disabled")


async def main() -> None:
    """Start nodes, people and the browser, and take the picture."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    scheme = sys.argv[2] if len(sys.argv) > 2 else "light"
    width = int(sys.argv[3]) if len(sys.argv) > 3 else 1440
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        sys.exit(f"the picture needs one of {', '.join(CHROMIUM_NAMES)}")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(RedisServer("valkey"))
        nodes = []
        for _ in range(3):
            node = Node(folder, "--redis.url", store.url, *LIMITS)
            node.unthrottled = False
            nodes.append(await stack.enter_async_context(node))
        async with anyio.create_task_group() as tasks, async_playwright() as playwright:
            tasks.start_soon(play, nodes)
            browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
            page = await browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)  # type: ignore[arg-type]  # one of two texts
            page.on("console", lambda message: print(message.text, file=sys.stderr))
            page.on("pageerror", lambda error: print(error, file=sys.stderr))
            await anyio.sleep(TALK_S)
            await take(page, nodes[0], picture)
            await browser.close()
            tasks.cancel_scope.cancel()
    if picture.stat().st_size > PICTURE_BYTES_MAX:
        sys.exit(f"{picture} is larger than {PICTURE_BYTES_MAX} bytes")


if __name__ == "__main__":
    anyio.run(main)
