"""The TypeScript client in a page: connections that die, are refused or end, and what others see of it."""

from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.sdk_page import SdkPage, SdkPages
from tests.deploy.site import site
from tests.support.api import call
from tests.support.node import Node
from tests.support.signing import SECRET, token
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

HOUR_MS = 3_600_000


async def test_a_server_that_is_frozen_is_noticed_and_its_return_too(
    browser: Browser, tmp_path: Path
) -> None:
    async with (
        Node(tmp_path, "--presence.ping_ms", "1000") as node,
        SdkPages(browser, node.http_url) as pages,
    ):
        ann, bob = await pages.open("ann"), await pages.open("bob")
        await ann.js("heard.length = 0")
        cid = await bob.js("client.cid")
        node.freeze()
        await bob.until("client.status.state !== 'connected'")
        assert "waiting" in await bob.js("states")
        assert await bob.js("room.stale")
        node.thaw()
        await bob.until("!room.stale")
        await ann.until("!room.stale && room.count === 2")
        assert await bob.js("client.cid") == cid
        assert await ann.heard() == []


async def test_a_dead_connection_is_noticed_when_the_page_is_looked_at(
    browser: Browser, tmp_path: Path
) -> None:
    """The server asks for a ping an hour: only what happens to the page can tell."""
    async with (
        Node(tmp_path, "--presence.ping_ms", str(HOUR_MS)) as node,
        SdkPages(browser, node.http_url) as pages,
    ):
        tabs = {
            event: await pages.open(f"who sees {event}") for event in ("visibility", "online", "pageshow")
        }
        control = await pages.open("who looks away")
        node.freeze()
        for page in (*tabs.values(), control):
            await page.js(
                "new Promise((resolve) => setTimeout(resolve, 1_100))"
            )  # no sign of life for so long
        await tabs["visibility"].js("document.dispatchEvent(new Event('visibilitychange'))")
        await tabs["online"].page.context.set_offline(True)
        await tabs["online"].page.context.set_offline(False)
        await tabs["pageshow"].js("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        for page in tabs.values():
            await page.until("states.includes('waiting')")
        assert await control.js("client.status.state") == "connected"
        node.thaw()


async def refused(page: SdkPage, code: int) -> str:
    """Wait until the client has stopped with a code, and see that hours later it has not tried again."""
    status = await page.status("stopped")
    assert status["code"] == code
    sockets = page.sockets
    await page.page.clock.run_for(HOUR_MS)
    assert page.sockets == sockets
    assert await page.js("room.isEntered") is False
    return str(status["reason"])


async def visit(pages: SdkPages, **options: object) -> SdkPage:
    """Open a page whose clock is moved by hand."""
    profile = await pages.profile()
    await profile.clock.install()
    return await pages.open("mallory", profile=profile, awaited=False, **options)  # type: ignore[arg-type]  # any of them


async def test_a_page_that_is_refused_knows_why_and_does_not_try_again(
    browser: Browser, tmp_path: Path
) -> None:
    async with Node(tmp_path) as node, SdkPages(browser, node.http_url) as pages:
        assert (
            await refused(await visit(pages, url="/socket"), 4000) == "WebSockets are at /ws, not at /socket"
        )
        assert "info" in await refused(await visit(pages, url="/ws?info=%7B"), 4000)
        await call(node, "POST", "/v1/users/mallory/disconnect", {"ban_ms": HOUR_MS})
        assert await refused(await visit(pages), 4004) == "forbidden"
        await until(lambda: "this user is banned" in node.log)  # at most a line a second
    strict = ("--auth.mode", "jwt", "--auth.secret", SECRET)
    async with Node(tmp_path, *strict) as node, SdkPages(browser, node.http_url) as pages:
        page = await visit(pages, token="nonsense")
        assert await refused(page, 4001) == "unauthorized"
        assert page.sockets == 1
    async with (
        Node(tmp_path, "--server.origins", "https://app.example") as node,
        SdkPages(browser, node.http_url) as pages,
    ):
        assert await refused(await visit(pages), 4004) == "forbidden"


async def test_a_page_that_is_banned_while_it_is_there_stops(browser: Browser, tmp_path: Path) -> None:
    async with Node(tmp_path) as node, SdkPages(browser, node.http_url) as pages:
        page = await visit(pages)
        await page.until("!room.stale")
        await call(node, "POST", "/v1/users/mallory/disconnect", {"ban_ms": HOUR_MS})
        assert await refused(page, 4003) == "kicked"


async def test_a_page_knows_an_outage_and_a_full_server_from_a_refusal(
    browser: Browser, tmp_path: Path
) -> None:
    async with (
        Node(tmp_path, "--server.max_connections", "1") as node,
        SdkPages(browser, node.http_url) as pages,
    ):
        first = await pages.open("ann")
        second = await pages.open("bob", awaited=False)
        status = await second.status("waiting")
        assert (status["code"], status["reason"]) == (4100, "overloaded")
        assert await second.js("client.status.retryAt - Date.now()") > 3_000  # it was told when to come back
        await second.js("dispatchEvent(new Event('online'))")  # which is no reason to come earlier
        assert (await second.js("client.status"))["state"] == "waiting"
        await first.js("client.close()")
        await second.status("connected")
        node.kill()
        await node.wait()
        await second.until("client.status.reason === 'the server cannot be reached'")
        assert (await second.js("client.status"))["code"] == 1006
        await node.start()
        await second.until("!room.stale")


async def test_a_server_that_was_killed_is_back_and_the_page_says_what_changed_as_such(
    browser: Browser, tmp_path: Path
) -> None:
    crowd = 12
    async with Node(tmp_path) as node, SdkPages(browser, node.http_url) as pages:
        page = await pages.open("ann")
        await page.js(
            """async (crowd) => {
                const users = Array.from({ length: crowd }, (_, i) => `guest-${i}`);
                window.guests = users.map((user) => sdk.connect("/ws", { user, storage: null }));
                await Promise.all(guests.map((guest) => guest.join(room.name).ready));
                window.changes = [];
            }""",
            crowd,
        )
        await page.until(f"room.count === {crowd + 1}")
        await page.js("heard.length = 0; void room.on('change', ({ synced }) => changes.push(synced))")
        node.kill()
        await node.wait()
        await page.until("[client, ...guests].every(({ status }) => status.state === 'waiting')")
        await node.start()
        # The server waits 500 ms for the next one that comes back: all at once, whatever their backoff is.
        await page.js("for (const each of [client, ...guests]) each.reconnect()")
        await page.until(f"!room.stale && room.count === {crowd + 1}")
        assert await page.heard() == []
        assert True in await page.js("changes")


async def test_a_reload_is_seen_by_nobody(sdk: SdkPages) -> None:
    ann, bob = await sdk.open("ann"), await sdk.open("bob")
    await ann.js("heard.length = 0")
    cid = await bob.js("client.cid")
    for _ in range(3):
        await bob.page.reload()
        await bob.until("window.isOpen && !room.stale")
    assert await bob.js("[client.cid, client.status.resumed, room.me.v]") == [cid, True, 1]
    await bob.js("room.publish('still here')")
    await ann.until("heard.length > 0")
    assert await ann.heard() == ["message bob still here"]


async def test_a_node_that_is_killed_behind_a_proxy_is_left_and_nobody_sees_it(
    browser: Browser, tmp_path: Path
) -> None:
    # Who is away for longer than the TTL leaves: on a busy machine the default may be too short.
    slack = ("--presence.ttl_ms", "120000", "--presence.grace_lost_ms", "120000")
    async with site("haproxy-plain", tmp_path, *slack, cuttable=False) as behind:
        await behind.in_use(*behind.nodes)
        pages: list[SdkPage] = []
        http_url = behind.front.url.replace("ws", "http", 1).removesuffix("/ws")
        async with SdkPages(browser, http_url) as opened:
            for number in range(4):
                credentials = token(sub=f"user-{number}")
                page = await opened.open(None, url=behind.front.url, token=credentials)
                pages.append(page)
            for page in pages:
                await page.until("room.count === 4")
                await page.js("heard.length = 0")
            on = {page: await page.js("client.welcome.node") for page in pages}
            cids = {page: await page.js("client.cid") for page in pages}
            doomed = next(node for node in behind.nodes if node.id == on[pages[0]])
            stayed = [page for page in pages if on[page] != doomed.id]
            assert stayed, "HAProxy spreads connections"
            doomed.kill()
            await doomed.wait()
            for page in pages:
                await page.until("!room.stale && client.welcome.node !== " + repr(doomed.id))
            for page in pages:
                assert await page.js("client.cid") == cids[page]
                await page.js("room.publish(client.welcome.user)")
            for page in pages:
                await page.until("heard.length === 3")
                assert all(line.startswith("message") for line in await page.heard())
