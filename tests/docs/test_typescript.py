"""The pages of docs/typescript.md and docs/recipes.md do what they say, in a real Chromium, against a real server."""

import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, Page, expect

from presence_server.protocol.codes import CLOSE_CODES, Advice, ErrorCode, advice
from tests.docs.pages import code, read, rows, section
from tests.docs.test_examples import served
from tests.support.daemon import free_port
from tests.support.node import Node
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

WRITTEN = "127.0.0.1:8080"
TYPESCRIPT = read("docs/typescript.md")
RECIPES = read("docs/recipes.md")
LOCK = section(RECIPES, "## An exclusive lock")
HISTORY = section(RECIPES, "## History kept by a backend")


@asynccontextmanager
async def visited(browser: Browser, url: str, *names: str) -> AsyncIterator[list[Page]]:
    """Open a page once for each name, in profiles of their own."""
    async with AsyncExitStack() as stack:
        pages = []
        for name in names:
            profile = await browser.new_context()
            stack.push_async_callback(profile.close)
            page = await profile.new_page()
            await page.goto(f"{url}/?name={name}")
            pages.append(page)
        yield pages


@asynccontextmanager
async def example(
    text: str, browser: Browser, node: Node, directory: Path, *names: str
) -> AsyncIterator[list[Page]]:
    """Serve a section's page as it is written, but for the server's address, and open it for each name."""
    (page,) = code(text, "html")
    assert page.count(WRITTEN) == 2
    (directory / "index.html").write_text(page.replace(WRITTEN, f"127.0.0.1:{node.port}"))
    with served(directory) as url:
        async with visited(browser, url, *names) as pages:
            yield pages


async def test_the_avatar_stack_shows_who_is_there_and_says_what_happens(
    browser: Browser, tmp_path: Path
) -> None:
    stack = section(TYPESCRIPT, "## An avatar stack")
    (page,) = code(stack, "html")
    assert len(page.splitlines()) <= 30
    crowd = ["Ada", "Bob", "Cleo", "Dan", "Eve", "Fay"]
    async with Node(tmp_path) as node, example(stack, browser, node, tmp_path, *crowd) as tabs:
        for tab in tabs:
            await expect(tab.locator("#stack b")).to_have_count(5)
            await expect(tab.locator("#stack")).to_contain_text("+1")
        await tabs[0].close()
        await expect(tabs[1].locator("#stack")).not_to_contain_text("+1")
        await expect(tabs[1].locator("#status")).to_be_empty()
        node.kill()
        await node.wait()
        await expect(tabs[1].locator("#status")).to_contain_text("waiting")
        await node.start()
        await expect(tabs[1].locator("#status")).to_be_empty()


async def test_the_lock_is_held_by_one_and_goes_on_to_who_waits(browser: Browser, tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text(code(LOCK, "toml")[0])
    grace = ("--presence.grace_clean_ms", "10000")  # a reload takes seconds on a busy machine
    async with (
        Node(tmp_path, "--config", str(config), *grace) as node,
        example(LOCK, browser, node, tmp_path, "ada", "bob") as (ada, bob),
    ):
        states = {"ada": ada.locator("#lock"), "bob": bob.locator("#lock")}
        for state in states.values():
            await expect(state).not_to_be_empty()
        first = "ada" if await states["ada"].text_content() == "yours" else "bob"
        second = "bob" if first == "ada" else "ada"
        pages = {"ada": ada, "bob": bob}
        await expect(states[second]).to_have_text(f"{first} has it")
        await expect(states[first]).to_have_text("yours")
        await pages[first].reload()
        await expect(states[first]).to_have_text("yours")
        await pages[first].click("#release")
        await expect(states[second]).to_have_text("yours")
        await expect(states[first]).to_have_text(f"{second} has it")
        await pages[second].close()
        await expect(states[first]).to_have_text("yours")


async def test_a_list_shows_who_looks_at_which_ticket(browser: Browser, tmp_path: Path) -> None:
    text = section(RECIPES, "## Who looks at which ticket")
    async with Node(tmp_path) as node, example(text, browser, node, tmp_path, "ada", "bob") as (ada, bob):
        await ada.click("#ticket-3")
        await expect(bob.locator("#ticket-3")).to_have_text("Ticket 3 · ada")
        await bob.click("#ticket-3")
        await expect(ada.locator("#ticket-3")).to_have_text("Ticket 3 · ada · bob")
        await ada.click("#ticket-7")
        await expect(bob.locator("#ticket-3")).to_have_text("Ticket 3 · bob")
        await expect(bob.locator("#ticket-7")).to_have_text("Ticket 7 · ada")
        await ada.close()
        await expect(bob.locator("#ticket-7")).to_have_text("Ticket 7")


async def test_typing_ends_by_itself(browser: Browser, tmp_path: Path) -> None:
    text = section(RECIPES, "## Typing that ends by itself")
    async with Node(tmp_path) as node, example(text, browser, node, tmp_path, "ada", "bob") as (ada, bob):
        typing = bob.locator("#typing")

        async def types() -> bool:
            await ada.type("#text", "x")
            return await typing.text_content() == "ada typing"

        await eventually(types, bool)  # a signal is dropped before the room is there
        await expect(typing).to_be_empty()


async def test_a_history_is_kept_by_a_backend_and_nothing_is_lost(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    (backend,) = code(HISTORY, "python")
    async with Node(tmp_path) as node:
        program = tmp_path / "backend.py"
        program.write_text(
            backend.replace("127.0.0.1:8081", f"127.0.0.1:{node.api_port}").replace("9000", str(port))
        )
        (page,) = code(HISTORY, "html")
        (tmp_path / "index.html").write_text(page.replace(WRITTEN, f"127.0.0.1:{node.port}"))
        async with await anyio.open_process([sys.executable, str(program)], cwd=tmp_path) as process:
            try:
                await until(lambda: listens(port))
                async with visited(browser, f"http://127.0.0.1:{port}", "ada", "bob") as (ada, bob):
                    await say(ada, "one")
                    await expect(bob.locator("#log")).to_have_text("one")
                    node.kill()
                    await node.wait()
                    await ada.fill("#text", "two")
                    await ada.press("#text", "Enter")  # stored, though the room cannot be told
                    await node.start()
                    await expect(bob.locator("#log li")).to_have_text(["one", "two"])
                    await expect(ada.locator("#log li")).to_have_text(["one", "two"])
            finally:
                process.kill()


async def say(page: Page, text: str) -> None:
    """Send a line, and wait until the field is empty again."""
    await page.fill("#text", text)
    await page.press("#text", "Enter")
    await expect(page.locator("#text")).to_have_value("")


def listens(port: int) -> bool:
    """Tell whether a program accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_code_that_stops_a_client_is_in_the_table() -> None:
    named = {
        int(number)
        for row in rows(section(TYPESCRIPT, "### Which codes stop it"))
        for number in re.findall(r"\d{4}", row[0])
    }
    final = {number for number in CLOSE_CODES if advice(number) in {Advice.STOP, Advice.FIX}}
    assert named == final | {1000}


def test_the_errors_that_are_named_are_the_servers_or_the_clients_own() -> None:
    cells = [row[1] for row in rows(section(TYPESCRIPT, "### What promises reject with"))]
    named = {name for cell in cells for name in re.findall(r"`([a-z_]{2,})`", cell)}
    assert {"disconnected", "ended", "conflict"} <= named
    assert named - {"code", "wait"} <= set(ErrorCode) | {"disconnected", "ended"}
