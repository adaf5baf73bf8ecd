"""Questions to a Cluster, and messages over it, while a slot moves or one of its servers is away."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import pytest

from presence_server.protocol.codes import REPLACED
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import slot_of, slot_of_tag
from tests.cluster.failover import PACE, two_nodes
from tests.support.api import call
from tests.support.node import Node
from tests.support.rawclient import speaking
from tests.support.tcp_servers import ServerCluster, TcpServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


def user_of(cluster: ServerCluster, server: TcpServer) -> str:
    """Return a user whose slot a server has."""
    slots = cluster.slots_of(server)
    return next(name for name in (f"user-{n}" for n in count()) if slot_of_tag(name) in slots)


async def test_a_question_about_a_slot_that_has_moved_is_answered_at_once(tmp_path: Path) -> None:
    with ServerCluster("valkey", replicas=False) as cluster:
        source, target, _ = cluster.servers
        user = user_of(cluster, source)
        async with (
            Node(tmp_path, "--redis.url", cluster.url) as node,
            speaking(node.port, f"/ws?user={user}"),
        ):
            for to in (target, source):
                await anyio.to_thread.run_sync(cluster.migrate, slot_of_tag(user), to)
                answer = await call(node, "GET", f"/v1/users/{user}")
                assert (answer.status, answer.body.get("online")) == (200, True), answer
                statuses = await call(node, "POST", "/v1/users/status", {"users": [user, "nobody"]})
                assert statuses.status == 200, statuses
                assert statuses.body["users"][user]["online"]


def names_elsewhere(cluster: ServerCluster, server: TcpServer) -> Iterator[str]:
    """Return users whose slots another server has."""
    slots = cluster.slots_of(server)
    return (name for name in (f"user-{n}" for n in count()) if slot_of_tag(name) not in slots)


async def is_ready(node: Node) -> bool:
    return (await call(node, "GET", "/readyz")).status == 200


async def test_a_connection_resumed_while_nodes_cannot_hear_each_other_has_one_life_afterwards(
    tmp_path: Path,
) -> None:
    with ServerCluster("valkey", replicas=False) as cluster:
        home = cluster.owner(slot_of(Keys("ps").registry().expiry))
        slots = cluster.slots_of(home)
        async with AsyncExitStack() as stack:
            one, other = await stack.enter_async_context(two_nodes(cluster.url, tmp_path))
            for user in names_elsewhere(cluster, home):
                first = await stack.enter_async_context(speaking(one.port, f"/ws?user={user}"))
                if slot_of_tag(first.cid) not in slots:
                    break
            await eventually(partial(is_ready, other), bool)
            home.kill()
            for node in (one, other):
                await eventually(partial(is_ready, node), lambda ready: not ready)
            resume = first.welcome["resume"]
            second = await stack.enter_async_context(speaking(other.port, f"/ws?user={user}&resume={resume}"))
            assert (second.welcome["resumed"], second.cid) == (True, first.cid)
            message = await call(one, "POST", f"/v1/users/{user}/messages", {"data": "nobody would hear it"})
            assert message.status == 503, message
            home.start()
            assert (await first.ending()).code == REPLACED.code
            await second.request(t="ping", id=9)


async def test_connections_are_noted_though_a_server_is_away_that_others_of_them_need(tmp_path: Path) -> None:
    with ServerCluster("valkey", replicas=False) as cluster:
        home = cluster.owner(slot_of(Keys("ps").registry().expiry))
        away = next(server for server in cluster.servers if server is not home)
        slots = cluster.slots_of(away)
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(Node(tmp_path, "--redis.url", cluster.url, *PACE))
            await eventually(partial(is_ready, node), bool)
            away.kill()
            await eventually(partial(is_ready, node), lambda ready: not ready)
            users = []
            for n in range(60):
                client = await stack.enter_async_context(speaking(node.port, f"/ws?user=user-{n}"))
                if slot_of_tag(f"user-{n}") not in slots and slot_of_tag(client.cid) not in slots:
                    users.append(f"user-{n}")
            assert 0 < len(users) < 60
            for server in cluster.running:
                server.ask("FLUSHALL")

            async def online() -> list[str]:
                answer = await call(node, "POST", "/v1/users/status", {"users": users})
                return [
                    user for user in users if answer.status == 200 and answer.body["users"][user]["online"]
                ]

            await eventually(online, lambda found: found == users)


async def test_users_of_slots_that_another_server_has_taken_over_with_nothing_are_noted_there(
    tmp_path: Path,
) -> None:
    with ServerCluster("valkey", replicas=False) as cluster:
        home = cluster.owner(slot_of(Keys("ps").registry().expiry))
        lost, staying = [server for server in cluster.servers if server is not home]
        slots = sorted(cluster.slots_of(lost))
        user = user_of(cluster, lost)
        async with (
            Node(tmp_path, "--redis.url", cluster.url, *PACE) as node,
            speaking(node.port, f"/ws?user={user}"),
        ):
            await eventually(partial(is_ready, node), bool)
            gone = lost.ask("CLUSTER", "MYID")
            lost.kill()
            for server in cluster.running:
                server.ask("CLUSTER", "FORGET", gone)
            staying.ask("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])

            async def is_online() -> bool:
                answer = await call(node, "GET", f"/v1/users/{user}")
                return answer.status == 200 and bool(answer.body["online"])

            await eventually(is_online, bool)
