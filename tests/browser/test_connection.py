"""What the page makes of reloads, lost servers and connections that are taken away."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, WebSocket, expect
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.browser.visitor import SOCKET_LOST, Visitors
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


async def test_a_reload_is_no_event_for_the_others(visitors: Visitors) -> None:
    bob = await visitors.arrive("Bob")
    ada = await visitors.arrive("Ada")
    await bob.sees_people({"Ada": 1, "Bob": 1})
    await ada.page.reload()
    await ada.is_connected()
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await ada.says("Back")
    await expect(bob.messages).to_have_text(["Back"])
    await expect(bob.events).to_have_text(["Ada joined"])
    await bob.sees_people({"Ada": 1, "Bob": 1})


async def test_a_resume_token_is_in_the_storage_only_between_two_pages(visitors: Visitors) -> None:
    tokens = "Object.keys(sessionStorage).filter(key => key.startsWith('presence.resume')).length"
    profile = await visitors.profile("Ada")
    await profile.add_init_script(f"window.tokensBefore = {tokens}")
    ada = await visitors.open(profile, "Ada")
    await ada.is_connected()
    assert await ada.evaluate(f"[tokensBefore, {tokens}]") == [0, 0]
    await ada.page.reload()
    await ada.is_connected()
    assert await ada.evaluate(f"[tokensBefore, {tokens}]") == [1, 0]


async def stop(node: Node) -> None:
    await node.stop()


async def kill(node: Node) -> None:
    node.kill()
    await node.wait()


@pytest.mark.parametrize("end", [stop, kill])
async def test_the_page_comes_back_after_a_restart_of_the_server(
    browser: Browser, tmp_path: Path, room: str, end: Callable[[Node], Awaitable[None]]
) -> None:
    node = Node(tmp_path)
    await node.start()
    async with Visitors(browser, node.http_url, room) as visitors:
        ada = await visitors.arrive("Ada")
        bob = await visitors.arrive("Bob")
        await ada.sees_people({"Ada": 1, "Bob": 1})
        await end(node)
        for tab in (ada, bob):
            await expect(tab.page.locator("#banner")).to_contain_text("The connection was lost")
            await expect(tab.page.locator("#countdown")).to_contain_text("Trying again in")
        await ada.says("Anybody?")
        failed = ada.log.locator(".message[data-state=failed]")
        await expect(failed).to_contain_text("Not sent: not connected")
        async with node:
            for tab in (ada, bob):
                await tab.is_connected()
                await tab.sees_people({"Ada": 1, "Bob": 1})
                await expect(tab.page.locator("#banner")).to_be_hidden()
                await expect(tab.events.filter(has_text="Connected again")).to_have_count(1)
            await ada.page.get_by_text("Try again").click()
            await expect(bob.messages).to_have_text(["Anybody?"])
            await expect(ada.messages).to_have_text(["Anybody?"])
            visitors.assert_no_complaints(but=SOCKET_LOST)


async def test_a_connection_that_is_taken_over_stops_and_says_why(visitors: Visitors, node: Node) -> None:
    tokens: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: tokens.extend(resume_tokens(frame)))

    tab = await visitors.open(await visitors.profile(), "Ada")
    tab.page.on("websocket", watch)
    await tab.page.fill("#name", "Ada")
    await tab.page.keyboard.press("Enter")
    await tab.is_connected()
    protocols = [Subprotocol("presence.v1.json"), Subprotocol(f"resume.{tokens[-1]}")]
    async with connect(f"{node.ws_url}?{urlencode({'user': 'Ada'})}", subprotocols=protocols) as thief:
        assert json.loads(await thief.recv())["resumed"] is True
        await expect(tab.connection).to_have_attribute("data-state", "stopped")
        await expect(tab.page.locator("#banner")).to_contain_text("goes on in another tab")
        await tab.page.click("#reconnect")
        await tab.is_connected()
        await tab.sees_people({"Ada": 2})


def resume_tokens(frame: str | bytes) -> list[str]:
    message = json.loads(frame)
    return [message["resume"]] if message["t"] in {"welcome", "resume"} else []


async def test_a_refused_message_is_shown_as_not_sent(browser: Browser, tmp_path: Path, room: str) -> None:
    config = tmp_path / "quiet.toml"
    config.write_text('[[rooms]]\npattern = "*"\nallow = ["join"]\n')
    async with (
        Node(tmp_path, "--config", str(config)) as node,
        Visitors(browser, node.http_url, room) as visitors,
    ):
        ada = await visitors.arrive("Ada")
        await ada.says("May I?")
        message = ada.log.locator(".message")
        await expect(message).to_have_attribute("data-state", "failed")
        await expect(message.locator(".mark")).to_contain_text("Not sent")
        await expect(message.get_by_role("button", name="Try again")).to_be_visible()
