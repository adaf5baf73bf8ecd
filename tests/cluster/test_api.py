"""Every call of the HTTP API on one node, about what is on another."""

from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from presence_server.client import ConnectionRefused, Message, connect
from tests.cluster.company import QUICK, TTL_S, StartNode, raw_members, visiting
from tests.support.api import Answer, call
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.rawclient import RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, until

# Each script of these runs on both servers in the contract suites.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["redis"], indirect=True)]

ODD_ROOM = "a/b:c"
ODD_USER = "zoë / {x}"


@pytest.fixture
async def nodes(start_node: StartNode) -> list[Node]:
    """Where clients are, and where backends ask."""
    return [await start_node(), await start_node()]


async def holds(node: Node, path: str, expected: Any) -> Answer:
    """Ask until the answer is what is expected: what is noted of rooms and users arrives a little later."""
    return await eventually(lambda: call(node, "GET", path), lambda answer: answer.body == expected)


async def test_rooms_are_listed_counted_and_paged(nodes: list[Node]) -> None:
    here, there = nodes
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(here.ws_url, user="alice"))
        for name in ("b:1", "a:1", "a:2", ODD_ROOM):
            await client.join(name)
        other = await stack.enter_async_context(connect(here.ws_url, user="alice"))
        await other.join("a:1")
        one = {"room": "a:2", "count": 1, "users": 1}
        await holds(there, "/v1/rooms/a:2", one)
        twice = {"room": "a:1", "count": 2, "users": 1}
        assert (await call(there, "GET", "/v1/rooms/a:1")).body == twice
        odd = {"room": ODD_ROOM, "count": 1, "users": 1}
        assert (await call(there, "GET", f"/v1/rooms/{quote(ODD_ROOM, safe='')}")).body == odd
        await holds(there, "/v1/rooms?prefix=a:", {"rooms": [twice, one], "cursor": None})
        first = await call(there, "GET", "/v1/rooms?limit=1")
        assert first.body == {"rooms": [odd], "cursor": ODD_ROOM}
        rooms: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await call(there, "GET", f"/v1/rooms?limit=1&cursor={quote(cursor or '', safe='')}")).body
            rooms += [room["room"] for room in page["rooms"]]
            cursor = page["cursor"]
        assert rooms == [ODD_ROOM, "a:1", "a:2", "b:1"]
    await holds(there, "/v1/rooms/a:1", {"room": "a:1", "count": 0, "users": 0})
    await holds(there, "/v1/rooms", {"rooms": [], "cursor": None})


async def test_members_are_read_page_by_page(nodes: list[Node]) -> None:
    here, there = nodes
    users = [f"user-{n}" for n in range(25)]
    async with raw_members(here, users):
        found: dict[str, str] = {}
        pages = 0
        cursor: str | None = ""
        while cursor is not None:
            query = f"?limit=10&cursor={cursor}" if cursor else "?limit=10"
            page = (await call(there, "GET", f"/v1/rooms/lobby/members{query}")).body
            found |= {member["cid"]: member["user"] for member in page["members"]}
            cursor, pages = page["cursor"], pages + 1
        assert sorted(found.values()) == sorted(users)
        assert pages >= 2
        member = page["members"][0]
        assert set(member) == {"cid", "user", "info", "state", "v", "at"}
    bad = await call(there, "GET", "/v1/rooms/lobby/members?cursor=nonsense")
    assert (bad.status, bad.headers["Content-Type"]) == (400, "application/problem+json")


async def test_a_backend_publishes_and_speaks_to_a_user_everywhere(nodes: list[Node]) -> None:
    here, there = nodes
    async with visiting(nodes, ["ann", "bob"]) as (ann, bob):
        sent = await call(there, "POST", "/v1/rooms/lobby/messages", {"data": {"n": [1, None, "é"]}})
        assert sent.status == 200
        for visitor in (ann, bob):
            await until(lambda: visitor.all(Message))  # noqa: B023 - awaited here
            (message,) = visitor.all(Message)
            assert (message.data, message.user, message.at) == ({"n": [1, None, "é"]}, None, sent.body["at"])
    async with AsyncExitStack() as stack:
        path = f"/ws?user={quote(ODD_USER)}"
        sockets: list[RawClient] = [
            await stack.enter_async_context(speaking(node.port, path)) for node in (here, there, here)
        ]
        other = await stack.enter_async_context(speaking(here.port, "/ws?user=other"))
        user = f"/v1/users/{quote(ODD_USER, safe='')}"
        await connected(there, user, 3)
        assert (await call(there, "POST", f"{user}/messages", {"data": "psst"})).status == 200
        for socket in sockets:
            message = (await socket.until("message"))[-1]
            assert (message["room"], message["cid"], message["user"], message["data"]) == (
                None,
                None,
                None,
                "psst",
            )
        await other.say(t="ping", id=1)
        assert (await other.hear())["t"] == "pong"


async def connected(node: Node, path: str, count: int) -> dict[str, Any]:
    """Wait until a user has so many connections, and return the user."""
    answer = await eventually(
        lambda: call(node, "GET", path), lambda answer: len(answer.body["connections"]) == count
    )
    user: dict[str, Any] = answer.body
    return user


async def test_where_users_are_is_known_on_every_node(nodes: list[Node]) -> None:
    here, there = nodes
    never = {"user": "nobody", "online": False, "connections": [], "last_seen": None}
    assert (await call(there, "GET", "/v1/users/nobody")).body == never
    async with speaking(here.port, "/ws?user=ann") as first, speaking(there.port, "/ws?user=ann") as second:
        user = await connected(there, "/v1/users/ann", 2)
        assert user["online"]
        assert {(c["cid"], c["node"]) for c in user["connections"]} == {
            (first.welcome["cid"], here.id),
            (second.welcome["cid"], there.id),
        }
        users = ["ann", "nobody", *(f"u{n}" for n in range(998))]
        answer = await call(there, "POST", "/v1/users/status", {"users": users})
        assert len(answer.body["users"]) == 1000
        assert answer.body["users"]["ann"]["online"]
        assert len(answer.body["users"]["ann"]["connections"]) == 2
        assert not answer.body["users"]["nobody"]["online"]
    gone = await connected(there, "/v1/users/ann", 0)
    assert not gone["online"]
    assert gone["last_seen"] >= user["last_seen"]


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_who_was_on_a_node_that_died_was_last_seen_then(nodes: list[Node]) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as client:
        await connected(there, "/v1/users/ann", 1)
        at = client.welcome["time"]
        here.kill()
        await here.wait()
        gone = await connected(there, "/v1/users/ann", 0)
        assert at - TTL_S * 1000 <= gone["last_seen"] <= at + 20_000
        await here.start()


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_something_without_a_socket_is_a_member_while_its_lease_lasts(nodes: list[Node]) -> None:
    here, there = nodes
    path = "/v1/rooms/lobby/members/bot-1"
    bot = {"user": "bot", "info": {"kind": "bot"}, "state": {"mood": "calm"}, "ttl_ms": 60_000}
    async with visiting([here], ["ann"]) as (ann,):
        assert [(await call(node, "PUT", path, bot)).status for node in (there, here, there)] == [
            201,
            200,
            200,
        ]
        await until(lambda: "bot-1" in ann.roster)
        assert ann.roster["bot-1"] == ("bot", {"mood": "calm"}, 1)
        entered = (await call(here, "PUT", path, bot | {"state": {"mood": "cross"}})).body
        assert (entered["v"], entered["state"], entered["info"]) == (2, {"mood": "cross"}, {"kind": "bot"})
        await until(lambda: ann.roster["bot-1"] == ("bot", {"mood": "cross"}, 2))
        taken = await call(there, "PUT", f"/v1/rooms/lobby/members/{ann.client.cid}", bot)
        assert (taken.status, taken.body["type"]) == (409, "urn:presence-server:taken")
        assert (await call(here, "PUT", path, bot | {"ttl_ms": 1_000})).status == 200
        await until(lambda: "bot-1" not in ann.roster)
        assert [event.reason for event in ann.events if hasattr(event, "reason")] == ["timeout"]
        assert (await call(here, "PUT", path, bot)).status == 201
        assert (await call(there, "DELETE", path)).status == 204
        assert (await call(here, "DELETE", path)).status == 404
        assert (await call(here, "PUT", path, bot)).status == 201
        # A lease longer than the presence TTL is not cut short.
        await anyio.sleep(TTL_S + 1)
        assert "bot-1" in ann.roster
        assert (await call(there, "DELETE", path)).status == 204


async def test_a_user_is_disconnected_and_banned_everywhere(nodes: list[Node]) -> None:
    here, there = nodes
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(speaking(node.port, "/ws?user=ann")) for node in (here, there)
        ]
        await connected(here, "/v1/users/ann", 2)
        done = await call(there, "POST", "/v1/users/ann/disconnect", {"ban_ms": 600_000})
        assert done.body == {"disconnected": 2}
        assert [(await socket.ending()).code for socket in sockets] == [4003, 4003]
    for node in nodes:
        assert await refused(node, "ann") == 403
    # A ban ends when a backend says so.
    assert (await call(here, "POST", "/v1/users/ann/disconnect", {"ban_ms": 0})).body == {"disconnected": 0}
    for node in nodes:
        async with speaking(node.port, "/ws?user=ann") as socket:
            assert socket.welcome["user"] == "ann"


async def refused(node: Node, user: str) -> int:
    """Return the status with which a user is refused."""
    with pytest.raises(ConnectionRefused) as refusal:
        async with connect(node.ws_url, user=user):
            pass
    return refusal.value.status


async def test_a_node_that_starts_later_knows_who_is_banned(nodes: list[Node], start_node: StartNode) -> None:
    await call(nodes[0], "POST", "/v1/users/ann/disconnect", {"ban_ms": 600_000})
    third = await start_node()
    assert await refused(third, "ann") == 403


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_a_frozen_node_that_has_lost_the_message_obeys_before_its_members_are_back(
    start_node: StartNode, store: RedisServer
) -> None:
    async with Proxy(store) as network:
        here, there = await start_node(network.url), await start_node()
        async with visiting([there], ["bob"]) as (bob,), speaking(here.port, "/ws?user=ann") as ann:
            await ann.request(t="join", room="lobby", id=1)
            cid = ann.welcome["cid"]
            await until(lambda: cid in bob.roster)
            network.eaten = lambda message: b"nodes:bus" in message
            here.freeze()
            await call(there, "POST", "/v1/users/ann/disconnect", {"ban_ms": 600_000})
            await until(lambda: cid not in bob.roster)
            bob.forget_events()
            here.thaw()
            assert (await ann.ending()).code == 4003
            await anyio.sleep(1)
            assert bob.comings_and_goings == []


async def test_the_limiter_is_shared_by_backends_of_all_nodes(start_node: StartNode, rules_file: str) -> None:
    patient = ("--throttle.deadline_ms", "5000")  # else a busy machine has each node count alone
    nodes = [await start_node(args=("--config", rules_file, *patient)) for _ in range(2)]
    here, there = nodes
    hit = {"rule": "login", "key": "10.0.0.1"}
    answers = [await call(nodes[i % 2], "POST", "/v1/throttle/hit", hit) for i in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].body == {
        "allowed": True,
        "limit": 3,
        "remaining": 2,
        "retry_after_ms": 0,
        "reset_after_ms": answers[0].body["reset_after_ms"],
        "source": "redis",
    }
    refused = answers[3]
    assert refused.headers["RateLimit-Policy"] == '"login";q=3;w=600'
    assert int(refused.headers["Retry-After"]) > 0
    looked = await call(here, "POST", "/v1/throttle/peek", hit)
    assert (looked.status, looked.body["allowed"], looked.body["remaining"]) == (200, False, 0)
    assert (await call(here, "POST", "/v1/throttle/reset", hit)).status == 200
    await until_allowed(there, hit)
    blocked = await call(here, "POST", "/v1/throttle/block", {"rule": "login", "key": "k", "ms": 60_000})
    assert (blocked.status, blocked.body["allowed"]) == (200, False)
    assert (await call(there, "POST", "/v1/throttle/hit", {"rule": "login", "key": "k"})).status == 429
    unknown = await call(here, "POST", "/v1/throttle/hit", {"rule": "nothing", "key": "k"})
    assert (unknown.status, unknown.body["detail"]) == (
        404,
        "no rule 'nothing'; there are: login",
    )
    dear = await call(here, "POST", "/v1/throttle/hit", {"rule": "login", "key": "k", "cost": 4})
    assert dear.status == 422


async def until_allowed(node: Node, hit: dict[str, str]) -> None:
    """Wait until a refusal that this node remembers has been forgotten."""
    await eventually(lambda: call(node, "POST", "/v1/throttle/hit", hit), lambda answer: answer.status == 200)


@pytest.fixture
def rules_file(tmp_path: Any) -> str:
    """A file with a rule for backends."""
    file = tmp_path / "rules.toml"
    file.write_text('[[throttle.rules]]\nname = "login"\nlimit = "3/600s"\nalgorithm = "sliding"\n')
    return str(file)


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_nodes_say_how_they_are(nodes: list[Node]) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as client:
        await client.request(t="join", room="lobby", id=1)

        def described(answer: Answer) -> dict[str, tuple[int, int]]:
            return {entry["node"]: (entry["connections"], entry["rooms"]) for entry in answer.body["nodes"]}

        expected = {here.id: (1, 1), there.id: (0, 0)}
        await eventually(
            lambda: call(there, "GET", "/v1/nodes"), lambda answer: described(answer) == expected
        )
    here.kill()
    await here.wait()
    await eventually(
        lambda: call(there, "GET", "/v1/nodes"), lambda answer: set(described(answer)) == {there.id}
    )
    await here.start()


async def test_without_the_store_calls_say_so_and_later_work_again(
    nodes: list[Node], store: RedisServer
) -> None:
    here, _ = nodes
    store.freeze()
    answer = await eventually(
        lambda: call(here, "GET", "/v1/rooms/lobby"), lambda answer: answer.status == 503
    )
    assert answer.body["type"] == "urn:presence-server:unavailable"
    assert answer.headers["Retry-After"] == "1"
    body: dict[str, Any]
    for method, path, body in (
        ("POST", "/v1/rooms/lobby/messages", {"data": 1}),
        ("PUT", "/v1/rooms/lobby/members/bot", {"user": "bot"}),
        ("POST", "/v1/users/a/messages", {"data": 1}),
        ("POST", "/v1/sessions", {"user": "a"}),
    ):
        assert (await call(here, method, path, body)).status == 503
    store.thaw()
    await eventually(lambda: call(here, "GET", "/v1/rooms/lobby"), lambda answer: answer.status == 200)


async def test_a_wiped_store_learns_everything_again(nodes: list[Node], store: RedisServer) -> None:
    here, there = nodes
    async with speaking(here.port, "/ws?user=ann") as client:
        await client.request(t="join", room="lobby", id=1)
        await connected(there, "/v1/users/ann", 1)
        listed = {"rooms": [{"room": "lobby", "count": 1, "users": 1}], "cursor": None}
        await holds(there, "/v1/rooms", listed)
        store.ask("FLUSHALL")
        await connected(there, "/v1/users/ann", 1)
        await holds(there, "/v1/rooms", listed)
        assert await nodes_alive(there) == {here.id, there.id}


async def nodes_alive(node: Node) -> set[str]:
    """Return the ids of the nodes."""
    answer = await eventually(
        lambda: call(node, "GET", "/v1/nodes"), lambda answer: len(answer.body["nodes"]) == 2
    )
    return {entry["node"] for entry in answer.body["nodes"]}
