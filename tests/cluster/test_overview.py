"""Every node's overview shows all nodes; one that was killed is gone from it within the TTL."""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from presence_server.client import connect
from tests.cluster.company import QUICK, TTL_S, StartNode
from tests.support.api import call
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tests.support.workers import Workers, one_on_each, socket_folder

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

LATE_S = 2.0
FIGURES_BYTES_MAX = 8_192


@pytest.fixture(params=["valkey"])
def store(request: pytest.FixtureRequest) -> Any:
    with RedisServer(request.param) as server:
        yield server
        assert server.keys_without_ttl() == []


@pytest.fixture
def pace() -> Sequence[str]:
    return QUICK


async def overview(node: Node) -> Any:
    return (await call(node, "GET", "/v1/overview")).body


def names(told: Any) -> list[str]:
    return [node["node"] for node in told["nodes"]]


async def test_any_node_shows_all_and_a_killed_one_is_gone_within_the_ttl_and_two_seconds(
    start_node: StartNode, store: RedisServer
) -> None:
    one, two, three = [await start_node() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for node, user in ((one, "a"), (two, "b"), (two, "c")):
            client = await stack.enter_async_context(connect(node.ws_url, user=user))
            await client.join("lobby")
        for asked in (one, three):
            told = await eventually(
                lambda asked=asked: overview(asked),  # type: ignore[misc]  # bound
                lambda told: (
                    [node["connections"] for node in told["nodes"] if node["node"] == two.id] == [2]
                    and [len(room["nodes"]) for room in told["rooms"]] == [2]
                    and len(told["nodes"]) == 3
                    and told["store"]
                    and all(node["round_trip_ms"] for node in told["nodes"])
                ),
            )
            assert (told["node"], told["shared"], told["complete"]) == (asked.id, True, True)
            assert names(told) == sorted((one.id, two.id, three.id))
            (room,) = told["rooms"]
            assert (room["room"], room["count"], room["users"]) == ("lobby", 3, 3)
            assert told["store"][0]["version"].startswith("Valkey ")
        assert 0 < store.ask("STRLEN", f"ps:node:{two.id}:figures") < FIGURES_BYTES_MAX
        two.kill()
        killed_s = time.monotonic()
        await eventually(lambda: overview(one), lambda told: names(told) == sorted((one.id, three.id)))
        told = await eventually(lambda: overview(one), lambda told: told["lost"])
        assert time.monotonic() - killed_s < TTL_S + LATE_S
        (lost,) = told["lost"]
        assert (lost["node"], 0 < lost["ago_ms"] < 60_000) == (two.id, True)
        await two.wait()
    await three.stop()
    told = await eventually(lambda: overview(one), lambda told: names(told) == [one.id])
    assert [lost["node"] for lost in told["lost"]] == [two.id]


async def test_a_node_without_the_store_shows_itself_and_says_why(
    start_node: StartNode, store: RedisServer
) -> None:
    node, other = await start_node(), await start_node()
    await eventually(lambda: overview(node), lambda told: len(told["nodes"]) == 2)
    store.freeze()
    told = await eventually(lambda: overview(node), lambda told: not told["complete"] and told["alerts"])
    assert (names(told), told["nodes"][0]["state"], told["store"]) == ([node.id], "isolated", [])
    assert (told["alerts"][0]["kind"], told["alerts"][0]["level"]) == ("isolated", "critical")
    store.thaw()
    await eventually(
        lambda: overview(node), lambda told: names(told) == sorted((node.id, other.id)) and not told["alerts"]
    )


async def test_a_frozen_node_is_silent_before_its_record_ends(
    start_node: StartNode, pace: Sequence[str]
) -> None:
    patient = ("--presence.ttl_ms", "60000", "--presence.heartbeat_ms", "4000")
    node, other = await start_node(args=patient), await start_node(args=patient)
    await eventually(
        lambda: overview(node), lambda told: [each["state"] for each in told["nodes"]] == ["serving"] * 2
    )
    other.freeze()
    told = await eventually(
        lambda: overview(node), lambda told: "silent" in [alert["kind"] for alert in told["alerts"]]
    )
    assert {each["node"]: each["state"] for each in told["nodes"]}[other.id] == "silent"
    other.thaw()


async def test_every_worker_is_a_node_of_the_overview(tmp_path: Path) -> None:
    with socket_folder() as folder:
        async with Workers(tmp_path, folder) as node, AsyncExitStack() as stack:
            await one_on_each(node, stack)
            told = await eventually(
                lambda: overview(node),
                lambda told: len(told["nodes"]) == 2 and all(each["connections"] for each in told["nodes"]),
            )
            assert names(told) == sorted(node.nodes)
