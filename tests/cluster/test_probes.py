"""Readiness: proven by what a node must be able to do, and told by name."""

from collections.abc import Callable

import anyio
import pytest

from presence_server.redis_io.monitor import STALE_S
from tests.cluster.company import StartNode
from tests.support.api import call
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, until

# These faults are not the server's: one kind will do.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["valkey"], indirect=True)]


async def ready(node: Node) -> dict[str, str] | None:
    """Return None where the node is ready, else the checks that failed."""
    answer = await call(node, "GET", "/readyz")
    wrong = {name: text for name, text in answer.body["checks"].items() if text != "ok"}
    assert (answer.status, answer.body["status"]) == ((503, "unready") if wrong else (200, "ready"))
    assert (await call(node, "GET", "/healthz")).status == 200
    return wrong or None


async def turns(node: Node, condition: Callable[[dict[str, str] | None], bool]) -> dict[str, str] | None:
    """Wait until the answer of `/readyz` is as it should be."""
    return await eventually(lambda: ready(node), condition)


async def test_a_frozen_store_makes_a_node_unready_within_three_seconds(
    start_node: StartNode, store: RedisServer
) -> None:
    node = await start_node(args=("--presence.heartbeat_ms", "10000", "--presence.ttl_ms", "30000"))
    assert await ready(node) is None
    store.freeze()
    wrong = await turns(node, lambda wrong: wrong is not None and {"store", "pubsub"} <= wrong.keys())
    assert wrong is not None
    assert "for" in wrong["store"]
    assert STALE_S < 3  # after the last proof, and by the age of that alone
    answer = await call(node, "GET", "/readyz?isolated=ok")
    assert (answer.status, answer.body["status"]) == (200, "isolated"), "it serves its own clients"
    assert answer.body["checks"]["store"] != "ok"
    store.thaw()
    await turns(node, lambda wrong: wrong is None)
    assert (await call(node, "GET", "/readyz?isolated=ok")).body["status"] == "ready"


async def test_a_node_that_can_write_but_hears_nothing_is_not_ready(
    start_node: StartNode, store: RedisServer
) -> None:
    async with Proxy(store) as network:
        node = await start_node(network.url)
        await turns(node, lambda wrong: wrong is None)
        network.cut_subscribers()
        await turns(node, lambda wrong: wrong is not None and wrong.keys() == {"pubsub"})
        await anyio.sleep(2 * STALE_S)
        # It goes on to be told apart: the store itself answers.
        await turns(node, lambda wrong: wrong is not None and wrong.keys() == {"pubsub"})
        network.heal()
        await turns(node, lambda wrong: wrong is None)


async def test_a_node_that_drains_is_not_ready(start_node: StartNode) -> None:
    node = await start_node(args=("--server.drain_ms", "3000"))
    # A socket that does not close keeps it draining.
    stream = await anyio.connect_tcp("127.0.0.1", node.port)
    async with stream:
        node.terminate()
        await until(lambda: "draining" in node.log)
        wrong = await ready(node)
        assert wrong is not None
        assert wrong.keys() == {"draining"}
        assert (await call(node, "GET", "/readyz?isolated=ok")).status == 503
    await node.wait()
    await node.start()


async def test_a_probe_that_asks_for_something_else_is_told_so(start_node: StartNode) -> None:
    node = await start_node()
    answer = await call(node, "GET", "/readyz?isolated=yes")
    assert (answer.status, answer.body["detail"]) == (400, "isolated is ok, or left out")
