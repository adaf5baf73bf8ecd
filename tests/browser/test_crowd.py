"""A room of more people than one page of the roster, and than the demo page lists."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect

from tests.browser.visitor import Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

CROWD = 620
ROWS_MAX = 200
HANDSHAKES_AT_ONCE = 20


async def test_a_room_of_two_pages_arrives_whole(browser: Browser, tmp_path: Path, room: str) -> None:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node(tmp_path))
        visitors = await stack.enter_async_context(Visitors(browser, node.http_url, room))
        turn = anyio.Semaphore(HANDSHAKES_AT_ONCE)

        async def arrive(number: int) -> None:
            async with turn:
                socket = await stack.enter_async_context(connect(f"{node.ws_url}?user=user-{number}"))
                await socket.send(json.dumps({"t": "join", "room": room, "mode": "none", "id": 1}))
                while json.loads(await socket.recv())["t"] != "sync":
                    pass

        async with anyio.create_task_group() as group:
            for number in range(CROWD):
                group.start_soon(arrive, number)
        tab = await visitors.arrive("Ada")
        await expect(tab.page.locator("#tally")).to_have_text(f"{CROWD + 1} people on 1 node")
        await expect(tab.page.locator("#faces .more")).to_have_text(f"+{CROWD + 1 - 3}")
        async with tab.sheet():
            await expect(tab.people).to_have_count(ROWS_MAX)
            await expect(tab.page.locator("#people-heading")).to_have_text(f"{CROWD + 1} people here")
            await expect(tab.page.locator("#people-cut")).to_be_visible()
        users = await tab.evaluate(
            f"""import("/static/presence-1.js").then(async ({{ connect }}) => {{
                const client = connect("/ws", {{ user: "watcher" }});
                const room = client.watch({room!r});
                await room.ready;
                const users = room.users.map(({{ user }}) => user);
                client.close();
                return users;
            }})"""
        )
        assert sorted(users) == sorted(["Ada", *(f"user-{number}" for number in range(CROWD))])


async def test_nobody_leaves_when_a_room_has_too_many_for_a_roster(
    browser: Browser, tmp_path: Path, room: str
) -> None:
    config = tmp_path / "presence.toml"
    config.write_text('[[rooms]]\npattern = "*"\nfull_max = 2\n')
    async with (
        Node(tmp_path, "--config", str(config)) as node,
        Visitors(browser, node.http_url, room) as visitors,
    ):
        ada = await visitors.arrive("Ada")
        bob = await visitors.arrive("Bob")
        await expect(ada.events).to_have_text(["Bob joined"])
        cleo = await visitors.arrive("Cleo")
        await expect(ada.page.locator("#tally")).to_have_text("3 people on 1 node")
        await cleo.says("Hello")
        await expect(ada.messages).to_have_text(["Hello"])
        await expect(ada.events).to_have_text(["Bob joined"])
        await expect(bob.events).to_have_count(0)
