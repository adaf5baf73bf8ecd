"""deploy/redis: a server starts with it, and its user for nodes may do what they do and nothing else."""

import contextlib
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from presence_server.redis_io.scripts import slot_of_tag
from tests.support.api import Answer, call
from tests.support.node import PROJECT, Node
from tests.support.rawclient import speaking
from tests.support.redis_server import KINDS, RedisServer
from tests.support.tcp_servers import ServerCluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
PATIENT = ("--presence.ping_timeout_ms", "600000", "--limits.overload_ms", "60000")
"""Clients here answer no pings, and have the limits of the settings, however slow the machine is."""

FOLDER: Final = PROJECT / "deploy" / "redis"
PASSWORD: Final = "change-me"
UNNEEDED: Final = {"config|get", "client|setinfo", "cluster|info"}
"""What nodes and redis-py try and do without: asking for the policy of memory and for a Cluster, naming the library."""
SETTINGS: Final = """
[auth]
mode = "session"
[presence]
heartbeat_ms = 1000
ttl_ms = 12000
[throttle]
deadline_ms = 10000
publishes = "1000/60s"
updates = "1000/60s"
rules = [
  { name = "fixed", limit = "2/60s", block_ms = 60000 },
  { name = "sliding", limit = "2/60s", algorithm = "sliding" },
  { name = "counter", limit = "2/60s", algorithm = "counter" },
  { name = "bucket", limit = "2/60s burst 4", algorithm = "bucket" },
  { name = "quota", limit = "2/day" },
]
"""


class ProductionServer(RedisServer):
    """A server with the file; nodes are its user `presence`, and tests ask it as `admin`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind, FOLDER / "redis.conf", {"aclfile": str(FOLDER / "users.acl")})
        self.url = f"unix://presence:{PASSWORD}@{self._socket}"

    def client_as(self, user: str = "", **options: Any) -> "redis.Redis":
        """Return a client of a user; without one, of a stranger."""
        if user:
            options |= {"username": user, "password": PASSWORD}
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self._socket), retry=retry, **options)

    def ask(self, *command: str | bytes | int) -> Any:
        """Run one command."""
        with self.client_as("admin") as admin:
            return admin.execute_command(*command)

    def denials(self) -> set[str]:
        """Return what was refused since it started."""
        with self.client_as("admin", decode_responses=True) as admin:
            return {entry["object"] for entry in admin.acl_log()}

    def setting(self, name: str) -> str:
        """Return what a setting is now."""
        with self.client_as("admin", decode_responses=True) as admin:
            return str(admin.config_get(name)[name])


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[ProductionServer]:
    with ProductionServer(request.param) as server:
        yield server


def granted() -> set[str]:
    """Return the commands that the user of the nodes may run."""
    (line,) = [line for line in (FOLDER / "users.acl").read_text().splitlines() if " presence " in line]
    return {word[1:] for word in line.split() if word.startswith("+")}


async def test_nodes_do_all_that_they_do_as_the_user_of_the_file(
    store: ProductionServer, tmp_path: Path
) -> None:
    settings = tmp_path / "presence.toml"
    settings.write_text(SETTINGS)
    async with AsyncExitStack() as stack:
        nodes = [
            Node(tmp_path, "--config", str(settings), *PATIENT, "--redis.url", store.url) for _ in range(2)
        ]
        for node in nodes:
            node.unthrottled = False
            await stack.enter_async_context(node)
        here, there = nodes
        await eventually(lambda: call(there, "GET", "/readyz"), lambda answer: answer.status == 200)
        await use_rooms_and_orders(here, there)
        await use_the_limiter(here, there)
        for node in (here, there):
            await call(node, "GET", "/metrics")
            assert "the store refuses a call" not in node.log
    assert store.denials() <= UNNEEDED
    assert store.keys_without_ttl() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_nodes_do_all_that_they_do_in_a_cluster_with_the_rights_that_the_docs_add(
    kind: str, tmp_path: Path
) -> None:
    settings = tmp_path / "presence.toml"
    settings.write_text(SETTINGS)
    (line,) = [line for line in (FOLDER / "users.acl").read_text().splitlines() if " presence " in line]
    found = re.search(
        r"In a Cluster the nodes' user needs `([^`]+)`", (PROJECT / "docs/redis.md").read_text()
    )
    assert found
    user = f"{line.removeprefix('user ')} {found[1]}"
    with ServerCluster(kind, replicas=False, more={"user": user}) as cluster:
        url = cluster.url.replace("://", f"://presence:{PASSWORD}@")
        async with AsyncExitStack() as stack:
            nodes = [
                Node(tmp_path, "--config", str(settings), *PATIENT, "--redis.url", url) for _ in range(2)
            ]
            for node in nodes:
                node.unthrottled = False
                await stack.enter_async_context(node)
            here, there = nodes
            await eventually(lambda: call(there, "GET", "/readyz"), lambda answer: answer.status == 200)
            await use_rooms_and_orders(here, there)
            await use_the_limiter(here, there)
            slot = slot_of_tag("a")
            target = next(server for server in cluster.servers if server is not cluster.owner(slot))
            await anyio.to_thread.run_sync(cluster.migrate, slot, target)
            await eventually(lambda: call(there, "GET", "/readyz"), lambda answer: answer.status == 200)
            for node in nodes:
                await call(node, "GET", "/metrics")
                assert "the store refuses a call" not in node.log
        with contextlib.ExitStack() as clients:
            for server in cluster.servers:
                client = clients.enter_context(redis.Redis(port=server.port, decode_responses=True))
                assert {entry["object"] for entry in client.acl_log()} <= UNNEEDED - {"cluster|info"}


async def use_rooms_and_orders(here: Node, there: Node) -> None:
    """Join, change, talk, resume, be removed, be banned: by clients, by the API, on both nodes."""
    tokens = {user: await token_of(here, user) for user in ("ann", "bob")}
    async with speaking(here.port, "/ws", bearing(tokens["ann"])) as ann, AsyncExitStack() as stack:
        bob = await stack.enter_async_context(speaking(there.port, "/ws", bearing(tokens["bob"])))
        for client in (ann, bob):
            assert (await client.request(t="join", room="a", state={"n": 1}, id=1))["t"] == "sync"
        await ann.request(t="update", room="a", state={"n": 2}, id=2)
        await ann.request(t="publish", room="a", data="hello", id=3)
        assert (await bob.until("message"))[-1]["data"] == "hello"
        assert len((await ann.request(t="members", room="a", id=4))["members"]) == 2
        bob.reset()
        resuming = f"/ws?resume={bob.welcome['resume']}"
        bob = await stack.enter_async_context(speaking(here.port, resuming, bearing(tokens["bob"])))
        assert bob.welcome["resumed"]
        await bob.request(t="join", room="a", id=5)
        await asked(there, "PUT", "/v1/rooms/a/members/bot-1", {"user": "bot", "info": {}, "ttl_ms": 60_000})
        assert (await asked(here, "GET", "/v1/rooms/a")).body["count"] == 3
        assert len((await asked(there, "GET", "/v1/rooms")).body["rooms"]) == 1
        await asked(here, "POST", "/v1/rooms/members", {"rooms": ["a"]})
        await asked(there, "POST", "/v1/rooms/a/messages", {"data": 1})
        await asked(there, "DELETE", "/v1/rooms/a/members/bot-1")
        await asked(there, "GET", "/v1/nodes")
        await asked(here, "POST", "/v1/users/bob/messages", {"data": 1})
        await eventually(
            lambda: call(there, "GET", "/v1/users/bob"), lambda answer: answer.body["connections"]
        )
        await asked(there, "POST", "/v1/users/status", {"users": ["ann", "bob"]})
        await asked(there, "DELETE", f"/v1/rooms/a/members/{bob.welcome['cid']}?ban_ms=60000")
        assert (await bob.until("removed"))[-1]["room"] == "a"
        await asked(there, "POST", "/v1/users/bob/disconnect", {"ban_ms": 60_000})
        assert (await bob.ending()).code == 4003
        assert len((await asked(here, "GET", "/v1/bans")).body["bans"]) == 2
        await asked(here, "DELETE", "/v1/bans/bob")
        session = f"/v1/sessions/{tokens['ann']}"
        version = (await asked(there, "GET", session)).body["version"]
        await asked(here, "PUT", session, {"user": "ann", "info": {}}, {"If-Match": f'"{version}"'})
        await ann.request(t="leave", room="a", id=6)
        await asked(there, "DELETE", session)
        assert (await ann.ending()).code == 4001


async def use_the_limiter(here: Node, there: Node) -> None:
    """Count by every algorithm, past each limit, and change the policy."""
    for rule in ("fixed", "sliding", "counter", "bucket", "quota"):
        body = {"rule": rule, "key": "k"}
        for node in (here, there, here, there, here):
            answer = await call(node, "POST", "/v1/throttle/hit", body)
        assert answer.status == 429, (answer, here.log)
        assert answer.body["source"] in {"redis", "deny_cache"}
        for path in ("peek", "refund", "charge"):
            assert (await call(there, "POST", f"/v1/throttle/{path}", body)).status in {200, 429}, (
                rule,
                path,
            )
        await asked(there, "POST", "/v1/throttle/reset", body)
        await asked(here, "POST", "/v1/throttle/block", body | {"ms": 1_000})
    several = {"descriptors": [{"rule": "fixed", "key": "one"}, {"rule": "sliding", "key": "one"}]}
    await asked(here, "POST", "/v1/throttle/check", several)
    await asked(here, "POST", "/v1/throttle/deny", {"key": "192.0.2.1", "ttl_ms": 60_000})
    await asked(there, "PUT", "/v1/throttle/rules/extra", {"limit": "1/60s"})
    await asked(there, "GET", "/v1/throttle/top")


async def asked(
    node: Node, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """Make a call that must succeed."""
    answer = await call(node, method, path, body, headers=headers)
    assert answer.status in {200, 201, 204}, (method, path, answer)
    return answer


async def token_of(node: Node, user: str) -> str:
    return str((await asked(node, "POST", "/v1/sessions", {"user": user})).body["token"])


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_others_may_do_nothing(store: ProductionServer) -> None:
    with store.client_as() as stranger:
        for command in ("PING", "GET ps:x", "PUBLISH ps:nodes:bus x"):
            with pytest.raises(redis.AuthenticationError):
                stranger.execute_command(*command.split())
    beyond = (
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
        ["SET", "other", "x"],
        ["PUBLISH", "other", "x"],
        ["SUBSCRIBE", "other"],
        ["EVAL", "return redis.call('GET', 'other')", 0],
        ["EVAL", "return redis.call('KEYS', '*')", 0],
    )
    with store.client_as("presence") as node:
        for words in beyond:
            with pytest.raises(redis.ResponseError, match=r"(?i)no permission|can't (run|access)"):
                node.execute_command(*words)


def test_each_granted_command_is_one_that_nodes_send() -> None:
    code = "\n".join(
        path.read_text()
        for path in (PROJECT / "presence_server").rglob("*")
        if path.suffix in {".py", ".lua"} and path.name != "users.acl"
    )
    sent = {word.lower() for word in re.findall(r"""["']([A-Z]{2,})["']""", code)}
    assert {command.split("|")[0] for command in granted()} <= sent


def test_each_command_of_a_script_or_a_call_is_granted() -> None:
    scripts = [path.read_text() for path in (PROJECT / "presence_server").rglob("*.lua")]
    called = {name.lower() for text in scripts for name in re.findall(r"\bp?call\(\s*'([A-Z]+)'", text)}
    code = [path.read_text() for path in (PROJECT / "presence_server").rglob("*.py")]
    called |= {name.lower() for text in code for name in re.findall(r'Call\(\("([A-Z]+)"', text)}
    assert len(called) > 40
    assert called <= granted()


def test_each_setting_is_in_force_and_has_a_reason(store: ProductionServer) -> None:
    text = (FOLDER / "redis.conf").read_text()
    for paragraph in text.split("\n\n"):
        assert re.match(r"# \w", paragraph), f"no reason for: {paragraph}"
    assert store.setting("maxmemory-policy") == "noeviction"
    assert store.setting("maxmemory") == str(2**30)
    assert store.setting("appendonly") == "yes"
    assert f"pubsub {64 * 2**20} {16 * 2**20} 30" in store.setting("client-output-buffer-limit")
