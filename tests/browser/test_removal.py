"""The browser client whose page is taken out of a room."""

from typing import Any

import pytest

from tests.browser.visitor import Tab, Visitors
from tests.support.api import call
from tests.support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

CONNECT = """import("/static/presence.js").then(async ({ connect }) => {
    const sockets = [];
    window.WebSocket = class extends WebSocket {
        constructor(...given) { super(...given); sockets.push(this); }
    };
    let gate = Promise.resolve();
    window.lose = () => {
        gate = new Promise(resolve => { window.comeBack = () => resolve("t"); });
        sockets.at(-1).close(4999);
    };
    const client = connect({ user: "eve", token: () => gate.then(() => "t") });
    const seen = [];
    client.on("state", ({ state }) => seen.push(state));
    const room = client.room("attic");
    room.on("removed", (reason) => seen.push(reason));
    room.on("refused", () => seen.push("refused"));
    const hall = client.room("hall");
    await Promise.all([room.join({ n: 1 }), hall.join()]);
    Object.assign(window, { client, room, hall, seen });
    return client.welcome.cid;
})"""
ASIDE = "promise => promise.then(() => 'fulfilled', error => error.code)"


async def sees(tab: Tab, word: str) -> None:
    """Wait until the page has seen something."""
    look = f"() => seen.includes('{word}') ? done() : setTimeout(look, 20)"
    await tab.evaluate(f"new Promise(done => {{ const look = {look}; look(); }})")


async def test_a_page_that_is_removed_from_a_room_stays_connected(visitors: Visitors, node: Node) -> None:
    tab = await visitors.arrive("Ada")
    cid = await tab.evaluate(CONNECT)
    assert (await call(node, "DELETE", f"/v1/rooms/attic/members/{cid}")).status == 204
    await sees(tab, "kicked")
    told: dict[str, Any] = await tab.evaluate(
        f"""(async () => {{
            const code = {ASIDE};
            const outside = await code(room.publish(1));
            const inside = await code(hall.publish(1));
            return {{ seen: [...seen], state: client.state, outside, inside }};
        }})()"""
    )
    assert told == {
        "seen": ["connected", "kicked"],
        "state": "connected",
        "outside": "not_joined",
        "inside": "fulfilled",
    }
    # It does not come back with the next connection, but by a fresh join.
    back = await tab.evaluate(
        f"""(async () => {{
            const welcomed = new Promise(resolve => client.on("welcome", resolve));
            hall.leave();
            room.on("sync", () => seen.push("sync"));
            client.reconnect();
            const before = room.roster.members.size;
            const code = {ASIDE};
            const joined = await code(room.join({{ n: 2 }}));
            const members = [...room.roster.members.values()].map(({{ state }}) => state.n);
            client.close();
            return {{ joined, members, removals: seen.filter(word => word === "kicked").length }};
        }})()"""
    )
    assert back == {"joined": "fulfilled", "members": [2], "removals": 1}


async def test_a_page_that_was_removed_while_it_was_away_does_not_come_back(
    visitors: Visitors, node: Node
) -> None:
    tab = await visitors.arrive("Ada")
    cid = await tab.evaluate(CONNECT)
    await tab.evaluate("lose()")
    await sees(tab, "waiting")
    assert (await call(node, "DELETE", f"/v1/rooms/attic/members/{cid}")).status == 204
    await tab.evaluate("comeBack()")
    await sees(tab, "kicked")
    members = (await call(node, "GET", "/v1/rooms/attic/members")).body["members"]
    assert members == []
    assert await tab.evaluate("seen.includes('refused') || client.welcome.cid !== " + f"'{cid}'") is False
    await tab.evaluate("client.close()")


async def test_a_join_that_is_under_way_rejects_when_the_room_is_forbidden(
    visitors: Visitors, node: Node
) -> None:
    tab = await visitors.arrive("Ada")
    cid = await tab.evaluate(CONNECT)
    path = f"/v1/rooms/attic/members/{cid}?ban_ms=600000"
    assert (await call(node, "DELETE", path)).status == 204
    await sees(tab, "kicked")
    codes = await tab.evaluate(
        f"""(async () => {{
            const code = {ASIDE};
            return [await code(room.join()), await code(client.room("attic").watch())];
        }})()"""
    )
    assert codes == ["forbidden", "forbidden"]
    assert (await call(node, "DELETE", "/v1/bans/eve?room=attic")).status == 204
    await tab.evaluate("client.close()")
