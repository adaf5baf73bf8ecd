"""One count over all nodes: of handshakes, of connections at a time, of what a user sends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from tests.cluster.company import QUICK, TTL_S, StartNode
from tests.support.metrics import scrape
from tests.support.node import PROJECT, Node
from tests.support.rawclient import RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S

# Each script of these runs on both servers in the contract suites.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["valkey"], indirect=True)]


PATIENT = ("--limits.handshake_ms", "600000", "--limits.pending_per_ip", "1024")
"""Who is dropped because a busy machine was late with it has been counted, and did not get in."""
WINDOW_S = 2


async def attempt(node: Node) -> int:
    async with RawClient(node.port) as client:
        return (await client.ask("/ws?user=ann")).status


async def storm(nodes: list[Node], attempts: int) -> int:
    """Have many come at once; return how many got in."""
    admitted: list[int] = []

    async def come(node: Node) -> None:
        if await attempt(node) == 101:
            admitted.append(1)

    async with anyio.create_task_group() as tasks:
        for n in range(attempts):
            tasks.start_soon(come, nodes[n % len(nodes)])
    return len(admitted)


@pytest.mark.parametrize("algorithm", ["fixed", "sliding", "counter", "bucket"])
async def test_of_many_at_once_on_any_nodes_exactly_the_limit_gets_in(
    start_node: StartNode, algorithm: str
) -> None:
    limits = (
        "--throttle.connect",
        "5/1h",
        "--throttle.algorithm",
        algorithm,
        "--throttle.deadline_ms",
        "5000",
        *PATIENT,
    )
    nodes = [await start_node(args=limits) for _ in range(3)]
    assert await storm(nodes, 200) == 5
    assert await storm(nodes, 9) == 0


async def test_a_flood_from_one_address_on_busy_machines_is_held_to_exactly_the_limit(
    start_node: StartNode,
) -> None:
    """With the default deadline of 50 ms: time in which a node itself is busy is not the store's."""
    nodes = [await start_node(args=("--throttle.connect", "5/1h", *PATIENT)) for _ in range(3)]
    with every_core_busy():
        command = [sys.executable, "-m", "tests.support.flood", "1500", *(str(node.port) for node in nodes)]
        flood = await anyio.run_process(command, cwd=PROJECT)
    counts = json.loads(flood.stdout)
    assert counts["101"] == 5
    assert sum(counts.values()) == 1_500
    for node in nodes:
        decided = {
            dict(labels)["source"]
            for name, labels in await scrape(node)
            if name == "presence_throttle_decisions_total"
        }
        assert decided <= {"redis", "deny_cache"}


@contextmanager
def every_core_busy() -> Iterator[None]:
    """Have a process for each core that does nothing else."""
    spinning = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spinning) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def test_every_window_admits_the_limit_again(start_node: StartNode) -> None:
    limits = ("--throttle.connect", f"5/{WINDOW_S}s", "--throttle.deadline_ms", "5000")
    nodes = [await start_node(args=limits) for _ in range(2)]
    admitted, begun = 0, time.monotonic()
    for _ in range(3):
        first, again = await storm(nodes, 8), await storm(nodes, 8)
        assert first >= 3
        admitted += first + again
        await anyio.sleep(WINDOW_S)
    took_s = time.monotonic() - begun
    assert admitted <= (took_s / WINDOW_S + 1) * 5


@pytest.mark.parametrize("pace", [QUICK], ids=["quick"])
async def test_connections_at_a_time_are_counted_over_nodes_and_given_back(start_node: StartNode) -> None:
    limits = ("--throttle.concurrent_per_ip", "3", "--throttle.deadline_ms", "5000")
    dying, living = await start_node(args=limits), await start_node(args=limits)
    async with speaking(living.port, "/ws?user=ann"):
        async with speaking(dying.port, "/ws?user=bob"), speaking(dying.port, "/ws?user=cem"):
            assert await attempt(living) == 429
            await anyio.sleep(TTL_S + 1)
            assert await attempt(living) == 429, "leases of nodes that live are renewed"
            dying.kill()
            await dying.wait()
            assert await attempt(living) == 429
        with anyio.fail_after(DEADLINE_S):
            while await attempt(living) != 101:  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(0.05)


async def test_the_limiter_is_no_outage_of_its_own(start_node: StartNode, store: RedisServer) -> None:
    node = await start_node(args=("--throttle.connect", "2/1h", "--throttle.updates", "1/1h"))
    assert await attempt(node) == 101
    store.freeze()
    try:
        async with speaking(node.port, "/ws?user=ann") as ann:
            assert (await ann.request(t="join", room="lobby", id=1))["t"] == "sync"
            for n in range(3):
                answer = await ann.request(t="update", room="lobby", state={"n": n}, id=n + 2)
                assert answer["t"] == "ok"
    finally:
        store.thaw()
    with anyio.fail_after(DEADLINE_S):
        while await attempt(node) != 429:  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.1)


async def test_a_users_messages_are_counted_over_nodes(start_node: StartNode) -> None:
    limits = ("--throttle.publishes", "4/1h", "--throttle.deadline_ms", "5000")
    nodes = [await start_node(args=limits) for _ in range(2)]
    async with speaking(nodes[0].port, "/ws?user=ann") as one, speaking(nodes[1].port, "/ws?user=ann") as two:
        kinds = []
        for client in (one, two):
            await client.request(t="join", room="lobby", id=1)
            kinds += [
                (await client.request(t="publish", room="lobby", data=n, id=n + 2))["t"] for n in range(3)
            ]
        assert sorted(kinds) == ["error"] * 2 + ["ok"] * 4
