"""Taking people out of rooms and off the server, on one node, about who is on another."""

from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from presence_server.client import Removed, connect
from tests.cluster.company import QUICK, TTL_S, StartNode, Visitor, visiting
from tests.cluster.test_api import connected, refused
from tests.support.api import call
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.rawclient import RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, until

# Each script of these runs on both servers in the contract suites.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["redis"], indirect=True)]

SLOW = ("--presence.ttl_ms", "60000", "--presence.grace_lost_ms", "60000")
"""Members whose connections are gone, and removals, are remembered for as long as a busy machine may take."""
REMOVED = {"t": "removed", "room": "lobby", "reason": "kicked"}


@pytest.fixture
async def nodes(start_node: StartNode) -> list[Node]:
    """Where clients are, and where backends ask."""
    return [await start_node(), await start_node()]


def member(cid: str) -> str:
    return f"/v1/rooms/lobby/members/{cid}"


def reasons(visitor: Visitor) -> list[str]:
    """Return why members left."""
    return [str(event.reason) for event in visitor.events if hasattr(event, "reason")]


async def in_room(client: RawClient, room: str = "lobby") -> dict[str, Any]:
    """Join a room and return the sync."""
    answer: dict[str, Any] = await client.request(t="join", room=room, id=1)
    assert answer["t"] == "sync", answer
    return answer


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_a_member_is_taken_out_of_one_room_on_whichever_node_it_is(nodes: list[Node]) -> None:
    here, there = nodes
    async with visiting([there], ["bob"]) as (bob,), speaking(here.port, "/ws?user=ann") as ann:
        await in_room(ann)
        await in_room(ann, "hall")
        await until(lambda: ann.cid in bob.roster)
        assert (await call(there, "DELETE", member(ann.cid))).status == 204
        assert (await ann.until("removed"))[-1] == REMOVED
        await until(lambda: ann.cid not in bob.roster)
        assert reasons(bob) == ["kicked"]
        assert (await call(there, "DELETE", member(ann.cid))).status == 404
        await bob.room.publish("not for ann")
        assert (await ann.request(t="publish", room="lobby", data=1, id=2))["code"] == "not_joined"
        assert (await ann.request(t="publish", room="hall", data=1, id=3))["t"] == "ok"
        # Neither its node's heartbeats nor a resume bring it back; a fresh join does.
        await anyio.sleep(TTL_S)
        async with speaking(there.port, f"/ws?user=ann&resume={ann.welcome['resume']}") as again:
            assert (again.cid, again.welcome["resumed"]) == (ann.cid, True)
            await in_room(again, "hall")
            assert ann.cid not in bob.roster
            assert (await in_room(again))["you"]
            await until(lambda: ann.cid in bob.roster)


async def test_who_is_removed_while_it_is_away_learns_of_it_on_any_node(start_node: StartNode) -> None:
    here, there = await start_node(args=SLOW), await start_node(args=SLOW)
    async with visiting([there], ["bob"]) as (bob,):
        async with speaking(here.port, "/ws?user=ann") as ann:
            await in_room(ann)
            await until(lambda: ann.cid in bob.roster)
        assert (await call(there, "DELETE", member(ann.cid))).status == 204
        await until(lambda: ann.cid not in bob.roster)
        async with speaking(there.port, f"/ws?user=ann&resume={ann.welcome['resume']}") as again:
            assert (again.cid, again.welcome["resumed"]) == (ann.cid, True)
            await again.say(t="join", room="lobby", id=1)
            assert await again.hear() == REMOVED
            refusal = await again.hear()
            assert (refusal["id"], refusal["code"]) == (1, "forbidden")
            assert ann.cid not in bob.roster
            await in_room(again)


async def test_a_client_that_was_removed_while_its_node_was_dead_does_not_bring_itself_back(
    start_node: StartNode,
) -> None:
    here, there = await start_node(args=SLOW), await start_node(args=SLOW)
    async with visiting([there], ["bob"]) as (bob,), connect(here.ws_url, user="ann") as ann:
        room = await ann.join("lobby", state={"n": 1})
        hall = await ann.join("hall")
        cid = ann.cid
        await until(lambda: cid in bob.roster)
        here.kill()
        await here.wait()
        assert (await call(there, "DELETE", member(cid))).status == 204
        await until(lambda: cid not in bob.roster)
        bob.forget_events()
        await here.start()
        with anyio.fail_after(60):
            assert [event async for event in room][-1] == Removed("lobby", "kicked")
        assert (ann.cid, ann.resumed) == (cid, True)
        await hall.publish(1)
        assert bob.comings_and_goings == []
        await ann.join("lobby")
        await until(lambda: cid in bob.roster)


async def test_a_watcher_is_taken_out_of_a_room(nodes: list[Node]) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as ann:
        await ann.request(t="watch", room="lobby", id=1)
        await connected(there, "/v1/users/ann", 1)
        assert (await call(there, "DELETE", "/v1/rooms/hall/members/" + ann.cid)).status == 404
        assert (await call(there, "DELETE", member(ann.cid))).status == 204
        assert (await ann.until("removed"))[-1] == REMOVED
        assert (await call(there, "DELETE", member(ann.cid))).status == 404


async def test_a_frozen_node_tells_of_a_removal_when_it_wakes(nodes: list[Node]) -> None:
    here, there = nodes
    async with AsyncExitStack() as stack:
        (bob,) = await stack.enter_async_context(visiting([there], ["bob"]))
        ann = await stack.enter_async_context(speaking(here.port, "/ws?user=ann"))
        eve = await stack.enter_async_context(speaking(here.port, "/ws?user=eve"))
        await in_room(ann)
        await eve.request(t="watch", room="lobby", id=1)
        await until(lambda: ann.cid in bob.roster)
        await connected(there, "/v1/users/eve", 1)
        here.freeze()
        for client in (ann, eve):
            assert (await call(there, "DELETE", member(client.cid))).status == 204
        await until(lambda: ann.cid not in bob.roster)
        assert reasons(bob) == ["kicked"]
        bob.forget_events()
        here.thaw()
        for client in (ann, eve):
            assert (await client.until("removed"))[-1] == REMOVED
        await anyio.sleep(1)
        assert bob.comings_and_goings == []
        await in_room(ann)
        await until(lambda: ann.cid in bob.roster)


async def test_a_node_that_was_cut_off_tells_of_a_removal_when_it_is_back(
    start_node: StartNode, store: RedisServer
) -> None:
    async with Proxy(store) as network:
        here, there = await start_node(network.url), await start_node()
        async with visiting([there], ["bob"]) as (bob,), speaking(here.port, "/ws?user=ann") as ann:
            await in_room(ann)
            await until(lambda: ann.cid in bob.roster)
            network.cut()
            await eventually(
                lambda: call(here, "GET", "/v1/rooms/lobby"), lambda answer: answer.status == 503
            )
            assert (await call(there, "DELETE", member(ann.cid))).status == 204
            await until(lambda: ann.cid not in bob.roster)
            bob.forget_events()
            network.heal()
            assert (await ann.until("removed"))[-1] == REMOVED
            await anyio.sleep(1)
            assert bob.comings_and_goings == []


async def test_who_is_banned_from_a_room_is_kept_out_on_every_node(
    nodes: list[Node], start_node: StartNode
) -> None:
    here, there = nodes
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(speaking(here.port, "/ws?user=ann"))
        other = await stack.enter_async_context(speaking(there.port, "/ws?user=ann"))
        await in_room(ann)
        assert (await call(there, "DELETE", member(ann.cid) + "?ban_ms=600000")).status == 204
        await ann.until("removed")
        late = await stack.enter_async_context(speaking((await start_node()).port, "/ws?user=ann"))
        for client in (ann, other, late):
            for kind in ("join", "watch"):
                answer = await eventually(
                    lambda: client.request(t=kind, room="lobby", id=2),  # noqa: B023 - awaited here
                    lambda answer: answer["t"] == "error",
                )
                assert (answer["code"], answer["room"]) == ("forbidden", "lobby")
            await in_room(client, "hall")
        listed = (await call(here, "GET", "/v1/bans")).body
        (ban,) = listed["bans"]
        assert (ban["user"], ban["room"], listed["cursor"]) == ("ann", "lobby", None)
        assert 0 < ban["until"] - ann.welcome["time"] < 700_000
        assert (await call(here, "DELETE", "/v1/bans/ann")).status == 404
        assert (await call(here, "DELETE", "/v1/bans/ann?room=lobby")).status == 204
        assert (await call(there, "GET", "/v1/bans")).body == {"bans": [], "cursor": None}
        for client in (ann, other, late):
            await eventually(
                lambda: client.request(t="join", room="lobby", id=3),  # noqa: B023 - awaited here
                lambda answer: answer["t"] == "sync",
            )


async def test_a_connection_is_closed_wherever_it_is_and_its_tokens_end(nodes: list[Node]) -> None:
    here, there = nodes
    async with visiting([there], ["bob"]) as (bob,):
        async with AsyncExitStack() as stack:
            ann = await stack.enter_async_context(speaking(here.port, "/ws?user=ann"))
            same = await stack.enter_async_context(speaking(here.port, "/ws?user=ann"))
            await in_room(ann)
            await connected(there, "/v1/users/ann", 2)
            assert (await call(there, "DELETE", f"/v1/connections/{ann.cid}")).status == 204
            assert (await ann.ending()).code == 4003
            await until(lambda: ann.cid not in bob.roster)
            assert (await same.request(t="ping", id=1))["t"] == "pong"
        assert reasons(bob) == ["kicked"]
        for node in nodes:
            await not_resumed(node, ann)
        await connected(there, "/v1/users/ann", 0)
        assert (await call(there, "DELETE", f"/v1/connections/{ann.cid}")).status == 404
        assert (await call(there, "DELETE", "/v1/connections/nobody")).status == 404


async def not_resumed(node: Node, client: RawClient, user: str = "ann") -> None:
    """Assert that a connection's token brings nothing back."""
    async with speaking(node.port, f"/ws?user={user}&resume={client.welcome['resume']}") as again:
        assert (again.welcome["resumed"], again.cid == client.cid) == (False, False)


async def test_the_tokens_of_a_disconnected_user_end(nodes: list[Node]) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as ann:
        await connected(there, "/v1/users/ann", 1)
        assert (await call(there, "POST", "/v1/users/ann/disconnect")).body == {"disconnected": 1}
        assert (await ann.ending()).code == 4003
    for node in nodes:
        await not_resumed(node, ann)


@pytest.mark.parametrize("by_user", [True, False])
async def test_who_is_ended_between_two_connections_is_gone_at_once(
    start_node: StartNode, by_user: bool
) -> None:
    here, there = await start_node(args=SLOW), await start_node(args=SLOW)
    async with visiting([there], ["bob"]) as (bob,):
        async with speaking(here.port, "/ws?user=ann") as ann:
            await in_room(ann)
            await connected(there, "/v1/users/ann", 1)
            await until(lambda: ann.cid in bob.roster)
            ann.reset()
        await connected(there, "/v1/users/ann", 0)
        assert ann.cid in bob.roster
        if by_user:
            answer = await call(there, "POST", "/v1/users/ann/disconnect")
            assert answer.body == {"disconnected": 0}
        else:
            await call(there, "DELETE", f"/v1/connections/{ann.cid}")
        await until(lambda: ann.cid not in bob.roster)
        assert reasons(bob) == ["kicked"]
        for node in (here, there, await start_node(args=SLOW)):  # the last one never heard of it
            await not_resumed(node, ann)


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_who_was_ended_while_its_node_was_frozen_is_gone_within_the_ttl(nodes: list[Node]) -> None:
    here, there = nodes
    async with visiting([there], ["bob"]) as (bob,), speaking(here.port, "/ws?user=ann") as ann:
        await in_room(ann)
        await until(lambda: ann.cid in bob.roster)
        await connected(there, "/v1/users/ann", 1)
        here.freeze()
        assert (await call(there, "POST", "/v1/users/ann/disconnect")).body == {"disconnected": 1}
        # Its client gives the frozen node up, and comes to another with its token.
        async with speaking(there.port, f"/ws?user=ann&resume={ann.welcome['resume']}") as again:
            assert not again.welcome["resumed"]
            with anyio.fail_after(TTL_S + 10):
                await until(lambda: ann.cid not in bob.roster)
            in_store = (await call(there, "GET", "/v1/rooms/lobby/members")).body["members"]
            assert ann.cid not in [entry["cid"] for entry in in_store]
            await until(lambda: here.returncode is None and bob.room.count == 1)
        bob.forget_events()
        here.thaw()
        assert (await ann.ending()).code == 4003
        await anyio.sleep(1)
        assert bob.comings_and_goings == []


async def test_a_user_s_connections_name_their_rooms(nodes: list[Node]) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as one, speaking(there.port, "/ws?user=ann") as two:
        await in_room(one, "b")
        await in_room(one, "a")
        await two.request(t="watch", room="c", id=1)
        user = await connected(there, "/v1/users/ann", 2)
        assert {c["cid"]: c["rooms"] for c in user["connections"]} == {one.cid: ["a", "b"], two.cid: ["c"]}
        here.freeze()
        user = await connected(there, "/v1/users/ann", 2)
        assert {c["cid"]: c["rooms"] for c in user["connections"]} == {one.cid: None, two.cid: ["c"]}
        here.thaw()


async def test_members_of_many_rooms_come_in_one_answer(nodes: list[Node]) -> None:
    here, there = nodes
    async with AsyncExitStack() as stack:
        for n in range(3):
            client = await stack.enter_async_context(connect(here.ws_url, user=f"u{n}"))
            await client.join("big")
        await client.join("a/b")
        asked = {"rooms": ["big", "a/b", "empty", "big"], "limit": 2}
        answer = (await call(there, "POST", "/v1/rooms/members", asked)).body["rooms"]
        assert set(answer) == {"big", "a/b", "empty"}
        assert [m["user"] for m in answer["a/b"]["members"]] == ["u2"]
        assert answer["a/b"]["cursor"] is None
        assert answer["empty"] == {"members": [], "cursor": None}
        users = [m["user"] for m in answer["big"]["members"]]
        cursor = answer["big"]["cursor"]
        while cursor is not None:
            page = (await call(there, "GET", f"/v1/rooms/big/members?cursor={cursor}")).body
            users += [m["user"] for m in page["members"]]
            cursor = page["cursor"]
        assert set(users) == {"u0", "u1", "u2"}
    too_many = {"rooms": [f"r{n}" for n in range(101)]}
    assert (await call(there, "POST", "/v1/rooms/members", too_many)).status == 400


async def test_bans_are_listed_page_by_page_and_lifted(nodes: list[Node]) -> None:
    here, there = nodes
    for n in range(5):
        path = f"/v1/users/{quote(f'zoë {n}')}/disconnect"
        assert (await call(here, "POST", path, {"ban_ms": 600_000})).status == 200
    found: list[str] = []
    query = "?limit=2"
    while True:
        page = (await call(there, "GET", f"/v1/bans{query}")).body
        assert len(page["bans"]) <= 2
        found += [ban["user"] for ban in page["bans"]]
        if page["cursor"] is None:
            break
        query = f"?limit=2&cursor={page['cursor']}"
    assert sorted(found) == [f"zoë {n}" for n in range(5)]
    assert all(ban["room"] is None for ban in (await call(there, "GET", "/v1/bans")).body["bans"])
    assert await refused(there, "zoë 0") == 403
    assert (await call(there, "DELETE", f"/v1/bans/{quote('zoë 0')}")).status == 204
    for node in nodes:
        async with speaking(node.port, f"/ws?user={quote('zoë 0')}"):
            pass
    assert (await call(there, "GET", "/v1/bans?cursor=nonsense")).status == 400


async def test_names_in_calls_are_compared_after_nfc_and_trimming(nodes: list[Node]) -> None:
    here, there = nodes
    composed, decomposed = "zo\u00eb", " zoe\u0308 "
    path = f"/v1/users/{quote(decomposed)}"
    async with speaking(here.port, f"/ws?user={quote(composed)}") as zoe:
        user = await connected(there, path, 1)
        assert user["user"] == composed
        statuses = (await call(there, "POST", "/v1/users/status", {"users": [decomposed]})).body["users"]
        assert statuses[decomposed]["online"]
        assert (await call(there, "POST", f"{path}/disconnect", {"ban_ms": 600_000})).body[
            "disconnected"
        ] == 1
        assert (await zoe.ending()).code == 4003
    assert await refused(there, composed) == 403
    assert (await call(there, "DELETE", f"/v1/bans/{quote(decomposed)}")).status == 204
