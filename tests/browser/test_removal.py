"""A page of the browser client that is taken out of a room while it is away, or kept out of it."""

import pytest
from playwright.async_api import Browser

from tests.browser.sdk_page import SdkPages
from tests.support.api import call
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

CONNECT = """async (name) => {
    const { connect } = await import("/static/presence-1.js");
    const sockets = [];
    class Tracked extends WebSocket {
        constructor(...given) { super(...given); sockets.push(this); }
    }
    let gate = Promise.resolve();
    window.lose = () => {
        gate = new Promise((open) => { window.comeBack = open; });
        sockets.at(-1).close(4999);
    };
    const options = { user: "eve", WebSocket: Tracked, storage: null, getToken: () => gate.then(() => "t") };
    window.eve = connect("/ws", options);
    window.attic = eve.join(name);
    window.said = [];
    attic.on("removed", (reason) => said.push(reason));
    attic.on("refused", ({ code }) => said.push(`refused ${code}`));
    await attic.ready;
    return eve.cid;
}"""


async def test_a_page_that_was_removed_while_it_was_away_does_not_come_back(
    browser: Browser, node: Node, room: str
) -> None:
    async with SdkPages(browser, node.http_url) as pages:
        page = await pages.open("ann")
        cid = await page.js(CONNECT, room)
        await page.js("lose()")
        await page.until("eve.status.state !== 'connected'")
        assert (await call(node, "DELETE", f"/v1/rooms/{room}/members/{cid}")).status == 204
        await page.until("typeof comeBack === 'function' && (comeBack(), true)")
        await page.until("said.includes('kicked')")
        assert (await call(node, "GET", f"/v1/rooms/{room}/members")).body["members"] == []
        assert await page.js("[said, eve.cid, attic.isEntered]") == [["kicked"], cid, False]
        # A fresh join is let in.
        await page.js("attic.join().ready")
        assert await page.js("[...attic.members.keys()]") == [cid]


async def test_a_page_that_is_banned_from_a_room_is_refused_there_until_that_ends(
    browser: Browser, node: Node, room: str
) -> None:
    async with SdkPages(browser, node.http_url) as pages:
        page = await pages.open("ann")
        cid = await page.js(CONNECT, room)
        path = f"/v1/rooms/{room}/members/{cid}?ban_ms=600000"
        assert (await call(node, "DELETE", path)).status == 204
        await page.until("said.includes('kicked')")
        for verb in ("join", "watch"):
            code = await page.js(f"attic.{verb}().ready.then(() => 'fulfilled', (error) => error.code)")
            assert code == "forbidden"
        assert (await call(node, "DELETE", f"/v1/bans/eve?room={room}")).status == 204
        await page.js("attic.join().ready")
