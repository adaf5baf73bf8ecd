"""Opaque sessions over several nodes: who has one comes in, and nobody after it was revoked."""

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from tests.cluster.company import StartNode
from tests.support.api import Answer, call
from tests.support.node import Node
from tests.support.rawclient import UPGRADE, RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, eventually

# Each script of these runs on both servers in the contract suites.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["valkey"], indirect=True)]

MODE = ("--auth.mode", "session")


@pytest.fixture
async def nodes(start_node: StartNode) -> list[Node]:
    return [await start_node(args=MODE), await start_node(args=MODE)]


async def begin(node: Node, user: str = "ann", **fields: Any) -> str:
    """Begin a session and return its token."""
    created = await call(node, "POST", "/v1/sessions", {"user": user, **fields})
    assert created.status == 201
    assert created.body["version"] == 1
    return str(created.body["token"])


def bearing(token: str) -> dict[str, str]:
    """Return the headers of who has a token."""
    return {"Authorization": f"Bearer {token}"}


async def handshake(node: Node, token: str | None) -> int:
    """Return the status that a handshake is answered with."""
    headers = UPGRADE | (bearing(token) if token is not None else {})
    async with RawClient(node.port) as client:
        return (await client.ask("/ws", headers)).status


async def test_a_session_lets_in_on_every_node(nodes: list[Node]) -> None:
    here, there = nodes
    token = await begin(here, info={"name": "Ann"}, rooms=[{"pattern": "a:*", "allow": ["join"]}])
    async with speaking(there.port, "/ws", bearing(token)) as ann:
        assert (ann.welcome["user"], ann.welcome["info"]) == ("ann", {"name": "Ann"})
        assert (await ann.request(t="join", room="a:1", id=1))["t"] == "sync"
        assert (await ann.request(t="join", room="b:1", id=2))["code"] == "forbidden"
    for wrong in (None, "", "nonsense", token + "x", token[:-1]):
        assert await handshake(here, wrong) == 401


async def test_a_revoked_session_closes_its_sockets_everywhere_at_once(nodes: list[Node]) -> None:
    here, there = nodes
    token, other = await begin(here), await begin(here, "bob")
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(speaking(node.port, "/ws", bearing(token)))
            for node in (here, there, there)
        ]
        bob = await stack.enter_async_context(speaking(there.port, "/ws", bearing(other)))
        assert (await call(here, "DELETE", f"/v1/sessions/{token}")).status == 204
        with anyio.fail_after(DEADLINE_S):
            for node in nodes:
                assert await handshake(node, token) == 401
        assert [(await socket.ending()).code for socket in sockets] == [4001, 4001, 4001]
        assert (await bob.request(t="ping", id=1))["t"] == "pong"
    for method in ("GET", "DELETE"):
        assert (await call(there, method, f"/v1/sessions/{token}")).status == 404


async def test_a_change_needs_the_version_that_it_changes(nodes: list[Node]) -> None:
    here, there = nodes
    token = await begin(here, info={"n": 0})
    path = f"/v1/sessions/{token}"

    async def put(version: str | None, **fields: Any) -> Answer:
        headers = {} if version is None else {"If-Match": version}
        return await call(there, "PUT", path, {"user": "ann", **fields}, headers=headers)

    read = await call(there, "GET", path)
    assert read.headers["ETag"] == '"1"'
    assert read.body == {"user": "ann", "info": {"n": 0}, "rooms": None, "ttl_ms": 86_400_000, "version": 1}
    changed = await put('"1"', info={"n": 1})
    assert (changed.status, changed.body, changed.headers["ETag"]) == (200, {"version": 2}, '"2"')
    stale = await put('"1"', info={"n": 2})
    assert (stale.status, stale.body["version"], stale.headers["ETag"]) == (412, 2, '"2"')
    assert (await call(here, "GET", path)).body["info"] == {"n": 1}
    assert (await put(None)).status == 428
    for wrong in ("*", "2", '"two"', '"2", "3"', 'W/"2"', '""'):
        assert (await put(wrong)).status == 400
    assert (await put('"2"', user="bob")).status == 409


async def test_new_grants_reach_open_connections(nodes: list[Node]) -> None:
    here, there = nodes
    token = await begin(here, rooms=[{"pattern": "*", "allow": ["join"]}])
    async with (
        speaking(there.port, "/ws", bearing(token)) as ann,
        speaking(here.port, "/ws", bearing(token)) as eve,
    ):
        for client in (ann, eve):
            assert (await client.request(t="join", room="a", id=1))["t"] == "sync"
        assert (await ann.request(t="publish", room="a", data=1, id=2))["code"] == "forbidden"
        rooms = [{"pattern": "*", "allow": ["join", "publish"]}]
        body = {"user": "ann", "rooms": rooms}
        assert (
            await call(here, "PUT", f"/v1/sessions/{token}", body, headers={"If-Match": '"1"'})
        ).status == 200
        publish = {"t": "publish", "room": "a", "data": 1, "id": 3}
        await eventually(lambda: ann.request(**publish), lambda answer: answer["t"] == "ok")
        assert (await eve.until("message"))[-1]["data"] == 1
        body = {"user": "ann", "rooms": []}
        assert (
            await call(here, "PUT", f"/v1/sessions/{token}", body, headers={"If-Match": '"2"'})
        ).status == 200
        for client in (ann, eve):
            removed = (await client.until("removed"))[-1]
            assert (removed["room"], removed["reason"]) == ("a", "forbidden")
            assert (await client.request(t="join", room="a", id=4))["code"] == "forbidden"


async def test_a_connection_is_a_use_and_the_end_of_its_session_is_its_end(
    nodes: list[Node], store: RedisServer
) -> None:
    here, there = nodes
    token = await begin(here, ttl_ms=6_000)
    idle = await begin(here, ttl_ms=6_000)
    async with speaking(there.port, "/ws", bearing(token)) as ann:
        await anyio.sleep(8)
        assert (await ann.request(t="ping", id=1))["t"] == "pong"
        assert await handshake(here, token) == 101
        assert await handshake(here, idle) == 401
        (key,) = list(store.ask("KEYS", "*:session:*"))
        store.ask("DEL", key)  # as if it had been revoked by a node whose command got lost
        assert (await ann.ending()).code == 4001


async def test_a_frozen_node_closes_revoked_sessions_when_it_wakes(nodes: list[Node]) -> None:
    here, there = nodes
    token = await begin(here)
    async with speaking(here.port, "/ws", bearing(token)) as ann:
        await ann.request(t="join", room="a", id=1)
        here.freeze()
        assert (await call(there, "DELETE", f"/v1/sessions/{token}")).status == 204
        assert await handshake(there, token) == 401
        here.thaw()
        assert (await ann.ending()).code == 4001
    assert await handshake(here, token) == 401


async def test_without_the_store_nobody_new_is_let_in_and_who_is_in_stays(
    nodes: list[Node], store: RedisServer
) -> None:
    here, _ = nodes
    token = await begin(here)
    async with speaking(here.port, "/ws", bearing(token)) as ann:
        store.freeze()
        assert await eventually(lambda: handshake(here, token), lambda status: status != 101) == 503
        assert (await ann.request(t="ping", id=1))["t"] == "pong"
        assert (await ann.request(t="auth", token=token, id=2))["code"] == "unavailable"
        store.thaw()
        await eventually(lambda: handshake(here, token), lambda status: status == 101)
        assert (await ann.request(t="ping", id=3))["t"] == "pong"


async def test_a_hundred_writers_over_two_nodes_overwrite_nothing_unseen(nodes: list[Node]) -> None:
    token = await begin(nodes[0], info={"count": 0})
    path = f"/v1/sessions/{token}"

    async def write(n: int) -> None:
        node = nodes[n % 2]
        while True:
            read = await call(node, "GET", path)
            body = {"user": "ann", "info": {"count": read.body["info"]["count"] + 1}}
            changed = await call(node, "PUT", path, body, headers={"If-Match": read.headers["ETag"]})
            if changed.status == 200:
                return
            assert changed.status == 412

    limit = anyio.CapacityLimiter(20)

    async def write_in_turn(n: int) -> None:
        async with limit:
            await write(n)

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(write_in_turn, n)
    read = await call(nodes[0], "GET", path)
    assert (read.body["info"], read.body["version"]) == ({"count": 100}, 101)
