"""What backends ask of a Cluster whose slots move: a question finds the server that has its slot by now."""

from itertools import count
from pathlib import Path

import anyio
import pytest

from presence_server.redis_io.scripts import slot_of_tag
from tests.support.api import call
from tests.support.node import Node
from tests.support.rawclient import speaking
from tests.support.tcp_servers import ServerCluster, TcpServer

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
