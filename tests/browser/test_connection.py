"""What the page makes of reloads, lost servers and connections that are taken away."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, WebSocket, expect
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.browser.visitor import DEADLINE_MS, SOCKET_LOST, Visitors
from tests.support.api import call
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

PLACES = """[...document.querySelectorAll("main :is(section, div, h2, p, form, button, .note)")]
    .filter(element => !element.closest("#toast, #log"))
    .map(element => [element.id || element.className, element.offsetLeft, element.offsetTop, element.offsetHeight])"""
"""Where everything on the page is, but for what lies over it."""


async def test_a_reload_is_seen_by_nobody(visitors: Visitors, node: Node) -> None:
    ada = await visitors.arrive("Ada")
    await ada.writes("Still here")
    await ada.page.keyboard.press("Escape")
    async with connect(f"{node.ws_url}?user=watcher") as watcher:
        await watcher.send(json.dumps({"t": "watch", "room": visitors.room}))
        shown = ""
        while "Still here" not in shown:  # in the sync, or in an update after it
            shown += str(await watcher.recv())
        await ada.page.reload()
        await ada.is_connected()
        await expect(ada.page.locator(".note.own textarea")).to_have_value("Still here")
        await ada.says("Back")
        heard = [json.loads(await watcher.recv())]
        while heard[-1]["t"] != "message":
            heard.append(json.loads(await watcher.recv()))
    assert [message for message in heard if message["t"] not in {"welcome", "signal"}] == heard[-1:]


async def test_nothing_of_a_person_is_in_the_storage_that_could_take_them_over(visitors: Visitors) -> None:
    ada = await visitors.arrive("Ada")
    ours = "Object.keys(sessionStorage).filter(key => !key.startsWith('presence.demo.'))"
    assert await ada.evaluate(ours) == []
    await ada.page.reload()
    await ada.is_connected()
    assert await ada.evaluate(ours) == []


async def stop(node: Node) -> None:
    await node.stop()


async def kill(node: Node) -> None:
    node.kill()
    await node.wait()


@pytest.mark.parametrize(
    ("end", "words"),
    [(stop, "The server is restarting"), (kill, "The server does not answer")],
    ids=["stop", "kill"],
)
async def test_a_restart_of_the_server_is_named_and_nobody_joins(
    browser: Browser, tmp_path: Path, room: str, end: Callable[[Node], Awaitable[None]], words: str
) -> None:
    node = Node(tmp_path)
    await node.start()
    async with Visitors(browser, node.http_url, room) as visitors:
        ada = await visitors.arrive("Ada")
        bob = await visitors.arrive("Bob")
        await ada.writes("Before")
        await expect(bob.notes).to_have_text(["Before"])
        before = await bob.evaluate(PLACES)
        await end(node)
        for tab in (ada, bob):
            await expect(tab.toast).to_contain_text(words)
            await expect(tab.toast.get_by_role("button", name="Try now")).to_be_visible()
            await expect(tab.page.locator("#announcer")).to_contain_text(words)
        await expect(bob.notes).to_have_text(["Before"])
        assert await bob.evaluate(PLACES) == before
        # What is written meanwhile is not lost.
        await ada.page.locator(".note.own textarea").fill("In between")
        await ada.says("Anybody?")
        await expect(ada.log.locator(".mark")).to_have_text("Goes out when the connection is back")
        async with node:
            for tab in (ada, bob):
                await tab.reconnects()
                await expect(tab.toast).to_contain_text("Connected again after")
            await expect(bob.notes).to_have_text(["In between"])
            await expect(ada.log.locator(".message")).to_have_attribute("data-state", "sent")
            for tab in (ada, bob):
                await tab.sees_people({"Ada": 1, "Bob": 1})
                await expect(tab.toast).to_have_count(0)
            await expect(ada.events).to_have_text(["Bob joined"])
            await expect(bob.events).to_have_count(0)
            visitors.assert_no_complaints(but=SOCKET_LOST)


async def test_who_is_not_back_after_a_restart_has_left_while_the_page_was_away(
    browser: Browser, tmp_path: Path, room: str
) -> None:
    node = Node(tmp_path)
    await node.start()
    async with Visitors(browser, node.http_url, room) as visitors:
        ada = await visitors.arrive("Ada")
        bob = await visitors.arrive("Bob")
        await ada.sees_people({"Ada": 1, "Bob": 1})
        await node.stop()
        await expect(ada.toast).to_contain_text("The server is restarting")
        await bob.page.close()
        async with node:
            await ada.reconnects()
            async with ada.sheet():
                await expect(ada.person("Bob").locator(".status")).to_have_text("reconnecting")
            lines = ["Bob joined", "While you were away: Bob left"]
            await expect(ada.events).to_have_text(lines, timeout=3 * DEADLINE_MS)
            await ada.sees_people({"Ada": 1})


async def test_a_connection_that_is_taken_over_stops_and_says_why(visitors: Visitors, node: Node) -> None:
    tokens: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: tokens.extend(resume_tokens(frame)))

    tab = await visitors.arrive("Ada")
    tab.page.on("websocket", watch)
    await tab.page.reload()
    await tab.is_connected()
    protocols = [Subprotocol("presence.v1.json"), Subprotocol(f"resume.{tokens[-1]}")]
    async with connect(f"{node.ws_url}?{urlencode({'user': 'Ada'})}", subprotocols=protocols) as thief:
        assert json.loads(await thief.recv())["resumed"] is True
        await expect(tab.connection).to_have_attribute("data-state", "stopped")
        await expect(tab.toast).to_contain_text("This page goes on in another tab")
        await tab.page.click("#reconnect")
        await tab.is_connected()
        await tab.sees_people({"Ada": 2})


def resume_tokens(frame: str | bytes) -> list[str]:
    message = json.loads(frame)
    return [message["resume"]] if message["t"] in {"welcome", "resume"} else []


async def test_the_page_says_that_it_was_removed(visitors: Visitors, node: Node) -> None:
    tab = await visitors.arrive("Ada")
    (member,) = (await call(node, "GET", f"/v1/rooms/{visitors.room}/members")).body["members"]
    assert (await call(node, "DELETE", f"/v1/rooms/{visitors.room}/members/{member['cid']}")).status == 204
    await expect(tab.events.last).to_contain_text("You were removed from this room")
    await expect(tab.connection).to_have_attribute("data-state", "connected")


async def test_who_is_taken_out_of_a_room_is_told_why_and_may_come_back(
    visitors: Visitors, node: Node, room: str
) -> None:
    ada, bob = await visitors.arrive("Ada"), await visitors.arrive("Bob")
    await ada.sees_people({"Ada": 1, "Bob": 1})
    members = (await call(node, "GET", f"/v1/rooms/{room}/members")).body["members"]
    (cid,) = [member["cid"] for member in members if member["user"] == "Ada"]
    assert (await call(node, "DELETE", f"/v1/rooms/{room}/members/{cid}")).status == 204
    await expect(ada.page.locator("#toast-text")).to_have_text("You were removed from this room.")
    await expect(ada.toast).to_have_count(1)
    await expect(ada.page.locator("#tally")).to_have_text("0 people on 1 node")
    await expect(ada.connection).to_have_attribute("data-state", "connected")
    await ada.page.get_by_role("button", name="Come back").click()
    await expect(ada.toast).to_have_count(0)
    await ada.sees_people({"Ada": 1, "Bob": 1})
    await bob.sees_people({"Ada": 1, "Bob": 1})


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


async def test_a_network_that_comes_and_goes_is_measured_one_ping_at_a_time(visitors: Visitors) -> None:
    ada, bob = await visitors.arrive("Ada"), await visitors.arrive("Bob")
    await ada.evaluate(
        """() => {
            let pings = 0;
            const { send } = WebSocket.prototype;
            WebSocket.prototype.send = function (text) {
                if (text.includes('"ping"')) pings += 1;
                return send.call(this, text);
            };
            window.counted = new Promise(resolve => new MutationObserver(() => {
                pings = 0;
                for (let i = 0; i < 100; i++) dispatchEvent(new Event("online"));
                resolve(pings);
            }).observe(document.querySelector("#log"), { childList: true }));
        }"""
    )
    await bob.says("The client has just heard from the server, and need not probe it")
    assert await ada.evaluate("window.counted") <= 1
    await ada.is_connected()
