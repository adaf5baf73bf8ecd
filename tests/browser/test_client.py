"""The browser client on its own: its roster, its pages, its refusals."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

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


def member(cid: str, user: str, at: int, v: int = 1, **state: str) -> dict[str, Any]:
    return {"cid": cid, "user": user, "info": {}, "state": state, "v": v, "at": at}


async def test_a_roster_follows_sync_pages_and_diffs_in_order_of_arrival(visitors: Visitors) -> None:
    numbers = {"count": 3, "users": 2}
    unknown = {"updates": [{"cid": "z", "state": {}, "v": 2}], "leaves": [{"cid": "y", "reason": "left"}]}
    messages: list[dict[str, Any]] = [
        {"t": "sync", "members": [member("a", "ada", 1), member("b", "bob", 2)], **numbers},
        {"t": "diff", "joins": [member("b", "bob", 2, v=4)], **numbers},
        {"t": "diff", **unknown, **numbers},
        {"t": "diff", "updates": [{"cid": "a", "state": {"s": "away"}, "v": 2}], **numbers},
        {"t": "page", "members": [member("c", "ada", 0), member("b", "bob", 2, v=5)]},
        {"t": "diff", "leaves": [{"cid": "b", "user": "bob", "reason": "left"}], "count": 2, "users": 1},
    ]
    tab = await visitors.arrive("Ada")
    roster = await tab.evaluate(
        f"""import("/static/presence.js").then(({{ Roster }}) => {{
            const roster = new Roster();
            const changes = {json.dumps(messages)}.map(message => roster.apply(message));
            return {{ changes, people: roster.people(), count: roster.count, users: roster.users }};
        }})"""
    )
    ada = [member("c", "ada", 0), member("a", "ada", 1, v=2, s="away")]
    assert roster["people"] == [{"user": "ada", "connections": ada}]
    assert (roster["count"], roster["users"]) == (2, 1)
    nothing: dict[str, list[Any]] = {"joins": [], "updates": [], "leaves": []}
    assert roster["changes"] == [
        nothing,
        nothing | {"updates": [member("b", "bob", 2, v=4)]},
        nothing,
        nothing | {"updates": [ada[1]]},
        nothing,
        nothing | {"leaves": [member("b", "bob", 2, v=5) | {"reason": "left"}]},
    ]


async def test_a_room_of_two_pages_arrives_whole(browser: Browser, tmp_path: Path, room: str) -> None:
    limits = ("--throttle.connect", "100000/1s", "--throttle.concurrent_per_ip", "100000")
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node(tmp_path, *limits))
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
        async with tab.sheet():
            await expect(tab.people).to_have_count(ROWS_MAX)
        users = await tab.evaluate(
            f"""import("/static/presence.js").then(async ({{ connect }}) => {{
                const client = connect({{ user: "watcher" }});
                const room = client.room({room!r});
                const whole = new Promise(resolve => room.on("roster", roster => {{
                    const users = roster.people().map(({{ user }}) => user);
                    if (users.length === {CROWD + 1}) resolve(users);
                }}));
                await new Promise(resolve => client.on("welcome", resolve));
                await room.watch();
                const users = await whole;
                client.close();
                return users;
            }})"""
        )
        assert sorted(users) == sorted(["Ada", *(f"user-{number}" for number in range(CROWD))])


async def test_refusals_reject_with_their_code(visitors: Visitors) -> None:
    tab = await visitors.arrive("Ada")
    codes = await tab.evaluate(
        """import("/static/presence.js").then(async ({ connect }) => {
            const code = promise => promise.then(() => "fulfilled", error => error.code);
            const client = connect({ user: "bob" });
            const early = await code(client.room("a").publish(1));
            const invalid = await code(client.room("no spaces").join());
            const outside = await code(client.room("b").publish(1));
            const room = await client.room("c").join({});
            const conflict = await code(room.update({}, { ifVersion: 7 }));
            const large = await code(room.publish("x".repeat(20_000)));
            const fine = await code(room.publish("x"));
            client.close();
            const late = await code(room.publish(1));
            return { early, invalid, outside, conflict, large, fine, late };
        })"""
    )
    assert codes == {
        "early": "disconnected",
        "invalid": "invalid_room",
        "outside": "not_joined",
        "conflict": "conflict",
        "large": "too_large",
        "fine": "fulfilled",
        "late": "disconnected",
    }
