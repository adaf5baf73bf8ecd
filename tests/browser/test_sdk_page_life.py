"""The TypeScript client and the life of a page: duplicated, put aside, hidden; and other places that it runs in."""

import re
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, Route

from tests.browser.sdk_page import DEADLINE_MS, SdkPage, SdkPages
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

HIDE = """() => {
    Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_duplicated_tab_is_a_second_connection_and_the_first_stays(sdk: SdkPages) -> None:
    profile = await sdk.profile()
    first = await sdk.open("ann", profile=profile)
    cid = await first.js("client.cid")
    # The token lies in the session storage, as after a `pagehide` that did not end the page; a tab that is
    # opened by script gets a copy of the storage, as a duplicated one does.
    await first.js("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    assert await first.js("sessionStorage.length") == 1
    async with profile.expect_page() as opened:
        await first.js("void window.open(location.href)")
    second = SdkPage(await opened.value)
    await second.until("window.isOpen && !room.stale")
    assert await second.js("client.cid") != cid
    await first.until("room.count === 2")
    assert await first.js("[client.cid, client.status.state]") == [cid, "connected"]
    assert "stopped" not in await first.js("states")


async def test_a_page_that_says_when_it_is_hidden_does_not_say_so_when_it_is_reloaded(sdk: SdkPages) -> None:
    """A page that goes away becomes hidden, too, and the last thing that the others would see of it was "away"."""
    ann, bob = await sdk.open("ann"), await sdk.open("bob")
    tell = "room.patchState({ away: document.visibilityState === 'hidden' })"
    await bob.js(f"document.addEventListener('visibilitychange', () => {tell})")
    await ann.js("heard.length = 0")
    await bob.page.reload()
    await bob.until("window.isOpen && !room.stale")
    await bob.js("room.publish('still here')")
    await ann.until("heard.length > 0")
    assert await ann.heard() == ["message bob still here"]


RESTORED = "void dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
"""What a page is told that was put aside (the back/forward cache, which headless browsers do not have)."""


async def test_a_page_that_is_restored_connects_at_once(browser: Browser, tmp_path: Path) -> None:
    async with Node(tmp_path) as node, SdkPages(browser, node.http_url) as pages:
        page = await pages.open("ann")
        await page.js("void (Math.random = () => 0.999)")
        node.kill()
        await node.wait()
        # Every try that fails makes the next wait longer.
        long = "client.status.state === 'waiting' && client.status.retryAt - Date.now() > 15_000"
        await page.until(f"({long}) || (client.reconnect(), false)")
        retry_at = await page.js("client.status.retryAt")
        await node.start()
        await page.js(RESTORED)
        await page.until("!room.stale")
        assert await page.js("Date.now()") < retry_at


async def test_a_page_whose_connection_ends_as_it_is_restored_connects_at_once(sdk: SdkPages) -> None:
    profile = await sdk.profile()
    await profile.add_init_script(
        """window.sockets = [];
        const Real = WebSocket;
        WebSocket = class extends Real { constructor(...args) { super(...args); sockets.push(this); } };
        Math.random = () => 0.999;"""
    )
    page = await sdk.open("ann", profile=profile)
    await page.js(
        """() => {
            window.waits = [];
            client.on("status", ({ state, retryAt }) => state === "waiting" && waits.push(retryAt - Date.now()));
        }"""
    )
    lose = "sockets.at(-1).close(4999)"
    await page.js(lose)
    await page.until("waits.length === 1 && !room.stale")
    await page.js(f"{RESTORED}; {lose}")
    await page.until("waits.length === 2 && !room.stale")
    waits = await page.js("waits")
    assert waits[0] > 500
    assert waits[1] <= 0


async def test_a_hidden_page_stays_present_for_two_minutes(sdk: SdkPages) -> None:
    ann = await sdk.open("ann")
    bob = await sdk.open("bob")
    cid = await bob.js("client.cid")
    await ann.js("heard.length = 0")
    await bob.js(HIDE)
    devtools = await bob.page.context.new_cdp_session(bob.page)
    passed, second_passed = anyio.create_memory_object_stream[None](1)
    devtools.on("Emulation.virtualTimeBudgetExpired", lambda _: passed.send_nowait(None))
    begun = await bob.js("performance.now()")
    with anyio.fail_after(4 * DEADLINE_MS / 1_000), passed, second_passed:
        for _ in range(120):
            budget = {"policy": "advance", "budget": 1_000, "maxVirtualTimeTaskStarvationCount": 100}
            await devtools.send("Emulation.setVirtualTimePolicy", budget)
            await second_passed.receive()
            await ann.js("client.ping()")  # the server needs real time to answer
    assert await bob.js("performance.now()") - begun > 119_000
    assert await bob.js("[client.cid, client.status.state]") == [cid, "connected"]
    await bob.js("room.publish('still here')")
    await ann.until("heard.length > 0")
    assert await ann.heard() == ["message bob still here"]


async def test_a_worker_joins_rooms(sdk: SdkPages) -> None:
    ann = await sdk.open("ann")

    async def worker(route: Route) -> None:
        script = """
            import { connect } from "/static/presence-1.js";
            const room = connect("/ws", { user: "worker" }).join(new URL(location).searchParams.get("room"));
            await room.ready;
            room.signal("at", 1);
            await room.publish("hi");
            postMessage(room.users.map(({ user }) => user));
        """
        await route.fulfill(content_type="text/javascript", body=script)

    await ann.page.route(re.compile("worker.js"), worker)
    users = await ann.js(
        """() => new Promise((resolve, reject) => {
            const worker = new Worker(`/worker.js?room=${room.name}`, { type: "module" });
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = ({ message }) => reject(new Error(message));
        })"""
    )
    assert sorted(users) == ["ann", "worker"]
    await ann.until("heard.length === 3")
    assert sorted(await ann.heard()) == ["join worker", "message worker hi", "signal worker at 1"]


async def test_a_page_of_another_site_loads_it_without_a_build_step(browser: Browser, node: Node) -> None:
    async with SdkPages(browser, node.http_url) as pages:
        profile = await pages.profile()

        async def app(route: Route) -> None:
            body = f"""<!doctype html>
                <script src="{node.http_url}/static/presence-1.classic.js" crossorigin></script>
                <script type="module">
                  import {{ connect }} from "{node.http_url}/static/presence-1.js";
                  window.module = connect("{node.ws_url}", {{ user: "module" }}).join("elsewhere");
                </script>
                <script>
                  window.classic = presenceServer.connect("{node.ws_url}", {{ user: "classic" }}).join("elsewhere");
                </script>"""
            await route.fulfill(content_type="text/html", body=body)

        await profile.route("http://localhost/", app)
        page = SdkPage(await profile.new_page())
        await page.page.goto("http://localhost/")
        await page.until("window.module?.count === 2 && classic.count === 2")
