"""The examples of the README and the tutorial do what the pages say, against a real server."""

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.text import TextReceiveStream
from playwright.async_api import Browser, expect

from presence_server.client import Joined, Message, connect
from tests.docs.pages import PROJECT, code, read, section
from tests.support.node import Node

WRITTEN = "ws://127.0.0.1:8080/ws"
SERVER = "127.0.0.1:8080"
DEADLINE_S = 30
README_PYTHON = code(section(read("README.md"), "## From Python"), "python")
README_PAGE = code(section(read("README.md"), "## From a browser"), "html")
TUTORIAL = read("docs/tutorial.md")
CLIENT_PAGE = code(read("docs/client.md"), "python")


@asynccontextmanager
async def program(text: str, node: Node, directory: Path) -> AsyncIterator[TextReceiveStream]:
    """Run a page's program in a process of its own; give what it prints."""
    file = directory / "example.py"
    assert WRITTEN in text
    file.write_text(text.replace(WRITTEN, node.ws_url))
    env = {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    async with await anyio.open_process([sys.executable, str(file)], env=env, stderr=None) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(DEADLINE_S):
                yield TextReceiveStream(process.stdout)
        finally:
            process.kill()


async def prints(output: TextReceiveStream, line: str) -> None:
    """Read until a line was printed; the lines between do not matter."""
    text = ""
    while f"{line}\n" not in text:
        text += await output.receive()


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory's files, as `python -m http.server` does; give the origin."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.anyio
@pytest.mark.parametrize("text", [*README_PYTHON, CLIENT_PAGE[0]], ids=["readme", "client page"])
async def test_the_first_python_example_says_who_comes_talks_and_goes(text: str, tmp_path: Path) -> None:
    async with Node(tmp_path) as node, program(text, node, tmp_path) as output:
        await prints(output, "here: alice")
        async with connect(node.ws_url, user="bob") as bob:
            room = await bob.join("lobby")
            await prints(output, "bob came")
            await room.publish("hello")
            await prints(output, "bob says hello")
            await room.leave()
            await prints(output, "bob left: left")


def test_the_examples_are_as_short_as_they_claim() -> None:
    (python,), (page,) = README_PYTHON, README_PAGE
    assert len([line for line in python.splitlines() if line]) <= 20
    assert len(page.splitlines()) <= 20


def test_every_python_block_compiles() -> None:
    for name in ("README.md", "docs/tutorial.md", "docs/client.md", "docs/limiter.md"):
        for text in code(read(name), "python"):
            if not text.startswith("async with"):
                compile(text, name, "exec")


@pytest.mark.anyio
async def test_the_greeter_greets_each_user_once(tmp_path: Path) -> None:
    (bot,) = code(TUTORIAL, "python")
    async with Node(tmp_path) as node, program(bot, node, tmp_path) as output:
        await prints(output, "here already: greeter")
        async with connect(node.ws_url, user="watcher") as watcher:
            room = await watcher.watch("tutorial")
            async with connect(node.ws_url, user="eve", info={"name": "Eve"}) as eve:
                await eve.join("tutorial")
                async with connect(node.ws_url, user="eve", info={"name": "Eve"}) as second_tab:
                    await second_tab.join("tutorial")
                    async with connect(node.ws_url, user="mallory") as mallory:
                        await mallory.join("tutorial")
                        greetings: list[object] = []
                        async for event in room:
                            if isinstance(event, Message):
                                greetings.append(event.data)
                            if len(greetings) == 2:
                                break
                        assert greetings == [{"text": "Hello Eve!"}, {"text": "Hello mallory!"}]


@pytest.mark.anyio
@pytest.mark.browser
async def test_the_page_of_the_readme_shows_who_is_there_and_says_hello(
    browser: Browser, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with served(site) as origin:
        async with (
            Node(tmp_path, "--server.origins", origin) as node,
            connect(node.ws_url, user="ada") as ada,
        ):
            room = await ada.join("lobby", state={"status": "busy"})
            (site / "index.html").write_text(README_PAGE[0].replace(SERVER, f"127.0.0.1:{node.port}"))
            page = await browser.new_page()
            await page.goto(origin)
            await expect(page.locator("#people > li")).to_have_text(["ada: busy", "bob: here"])
            with anyio.fail_after(DEADLINE_S):
                seen = [await anext(aiter(room)) for _ in range(3)]
            assert isinstance(seen[1], Joined)
            assert isinstance(seen[2], Message)
            assert seen[2].data == {"text": "hello"}
            await page.close()


@pytest.mark.anyio
@pytest.mark.browser
async def test_the_pages_of_the_tutorial_see_each_other_talk_and_type(
    browser: Browser, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (index,) = code(TUTORIAL, "html")
    (site / "index.html").write_text(index)
    with served(site) as origin:
        async with Node(tmp_path, "--server.origins", origin) as node:
            script = "\n".join(code(TUTORIAL, "js"))
            (site / "chat.js").write_text(changed(script).replace(SERVER, f"127.0.0.1:{node.port}"))
            ada, bob = await browser.new_page(), await browser.new_page()
            await ada.goto(f"{origin}/?name=Ada")
            await bob.goto(f"{origin}/?name=Bob")
            for page in (ada, bob):
                await expect(page.locator("#people > li")).to_have_text(["Ada", "Bob"])
            second_tab = await browser.new_page()
            await second_tab.goto(f"{origin}/?name=Ada")
            await expect(bob.locator("#people > li")).to_have_text(["Ada (2 tabs)", "Bob"])
            await second_tab.close()
            await expect(bob.locator("#people > li")).to_have_text(["Ada", "Bob"], timeout=DEADLINE_S * 1000)
            await ada.fill("#text", "hello")
            await expect(bob.locator("#typing")).to_have_text("Ada typing")
            await ada.press("#text", "Enter")
            await expect(bob.locator("#log > li")).to_have_text(["Ada: hello"])
            await expect(bob.locator("#typing")).to_have_text("")
            await expect(ada.locator("#log > li")).to_have_text(["me: hello"])
            await ada.evaluate(
                """() => {
                    Object.defineProperty(document, "hidden", { value: true });
                    document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )
            await expect(bob.locator("#people > li").first).to_have_css("opacity", "0.5")
            await node.stop()
            await expect(ada.locator("#status")).to_contain_text("waiting")
            await ada.fill("#text", "kept")
            await ada.press("#text", "Enter")
            await expect(ada.locator("#error")).to_contain_text("not sent")
            await expect(ada.locator("#text")).to_have_value("kept")
            await node.start()
            async with connect(node.ws_url, user="eve", info={"name": "Eve"}) as eve:
                await eve.join("tutorial")
                for page in (ada, bob):
                    await expect(page.locator("#people > li")).to_have_count(3, timeout=DEADLINE_S * 1000)
            for page in (ada, bob):
                await page.close()


def changed(script: str) -> str:
    """Apply the tutorial's one change of an earlier step."""
    (diff,) = code(TUTORIAL, "diff")
    before, added, after = diff.splitlines()
    assert added.startswith("+")
    old = f"{before[1:]}\n{after[1:]}\n"
    assert old in script
    return script.replace(old, f"{before[1:]}\n{added[1:]}\n{after[1:]}\n")
