"""The overview: what nodes tell of themselves, put together, and told to those alone who may call."""

from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from presence_server.api.overview import _alerts, _nodes, _rooms, sum_of_histories
from presence_server.api.overview_schema import StoreOverview
from presence_server.client import connect
from presence_server.registry.figures import STEP_MS, STEPS_MAX, Alert, BusyRoom, History, NodeFigures
from presence_server.registry.port import NodeStatus
from tests.api.conftest import KEY
from tests.support.api import call
from tests.support.node import Node
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

UNTIL = 1_700_000_000_000
OLD_MS = 3_600_000
READ_AGAIN_MS = 850
"""A little less than the time for which an overview is kept: clocks tell whole milliseconds, and drift."""


def history(*connections: int, until: int = UNTIL, lag_ms: int = 0) -> History:
    """Return a history in which as many came as there were."""
    zeros = [0] * len(connections)
    return History(
        until, list(connections), list(connections), zeros, zeros, zeros, zeros, [lag_ms] * len(connections)
    )


def test_histories_are_summed_up_step_by_step_and_the_worst_lag_counts() -> None:
    told = sum_of_histories([history(1, 2, 3, lag_ms=5), history(10, 20, 30, lag_ms=9)])
    assert (told.until, told.connections, told.connects) == (UNTIL, [11, 22, 33], [11, 22, 33])
    assert told.lag_ms == [9, 9, 9]


def test_a_node_that_began_later_has_nothing_before() -> None:
    assert sum_of_histories([history(1, 2, 3), history(10)]).connections == [1, 2, 13]


def test_a_step_counts_when_every_node_has_told_it() -> None:
    told = sum_of_histories([history(1, 2, 3), history(10, 20, until=UNTIL - STEP_MS)])
    assert (told.until, told.connections) == (UNTIL - STEP_MS, [11, 22])


def test_a_node_that_is_far_behind_is_left_out_and_nobody_is_nothing() -> None:
    assert sum_of_histories([history(1), history(9, until=UNTIL - 100 * STEP_MS)]).connections == [1]
    assert sum_of_histories([]).connections == []
    assert sum_of_histories([history(*range(STEPS_MAX)), history()]).connections == list(range(STEPS_MAX))


def test_a_room_has_the_greatest_number_that_any_of_its_nodes_tells() -> None:
    one = NodeFigures("n1", UNTIL, busy_rooms=[BusyRoom("a", 4, 3), BusyRoom("b", 9, 9)])
    two = NodeFigures("n2", UNTIL, busy_rooms=[BusyRoom("a", 5, 2)])
    found = [(room.room, room.count, room.users, room.nodes) for room in _rooms([one, two])]
    assert found == [("b", 9, 9, ["n1"]), ("a", 5, 3, ["n1", "n2"])]


def test_a_silent_node_is_an_alert() -> None:
    old, young = NodeStatus("old", "1", uptime_ms=OLD_MS), NodeStatus("young", "1", uptime_ms=1_000)
    nodes = _nodes([old, young], [], {"old"})
    assert [node.state for node in nodes] == ["silent", "serving"]
    assert [(alert.kind, alert.node) for alert in _alerts([], nodes, [])] == [("silent", "old")]


def test_alerts_of_all_nodes_and_of_the_store_are_told_the_worst_first() -> None:
    told = NodeFigures("n1", UNTIL, version="1", policy=3, alerts=[Alert("warning", "lag", "late", "n1")])
    nodes = _nodes(
        [NodeStatus("n1", "1", policy=3), NodeStatus("n2", "2", policy=4)],
        [told, structs.replace(told, node="n2")],
        (),
    )
    store = StoreOverview("", "Valkey 9", "master", 1, 1, 0, 1, 1, evicted_keys=12)
    assert [alert.kind for alert in _alerts([told], nodes, [store])] == [
        "evicted",
        "lag",
        "policies",
        "versions",
    ]


async def overview(node: Node, query: str = "", key: str = "") -> Any:
    """Return the overview."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = await call(node, "GET", f"/v1/overview{query}", headers=headers)
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.body


async def test_one_process_tells_what_it_does(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        flags = ("--throttle.publishes", "2/600s")
        node = await stack.enter_async_context(Node(tmp_path, *flags))
        clients = [await stack.enter_async_context(connect(node.ws_url, user=user)) for user in "abb"]
        rooms = [await client.join("lobby") for client in clients]
        for _ in range(2):
            await rooms[0].publish("hello")
        with pytest.raises(Exception, match="throttled"):
            await rooms[0].publish("too much")
        told = await eventually(
            lambda: overview(node),
            lambda told: told["rooms"] and sum(told["history"]["denied"]) and told["rates"]["connects"],
        )
        (mine,) = told["nodes"]
        assert (told["node"], told["shared"], told["complete"], told["store"]) == (node.id, False, True, [])
        assert (mine["node"], mine["state"], mine["connections"], mine["rooms"]) == (
            node.id,
            "serving",
            3,
            1,
        )
        assert mine["memory_bytes"] > 1_000_000
        assert told["rooms"] == [{"room": "lobby", "count": 3, "users": 2, "nodes": [node.id]}]
        assert (sum(told["history"]["connects"]), told["history"]["connections"][-1]) == (3, 3)
        assert (sum(told["history"]["allowed"]), sum(told["history"]["denied"])) == (2, 1)
        (refused,) = told["throttled"]["top"]
        assert (refused["rule"], refused["count"]) == ("publishes", 1)
        brief = await overview(node, "?rooms=0&throttled=0&history=false")
        assert (brief["rooms"], brief["throttled"]["top"], brief["history"]) == ([], [], None)


async def test_it_is_told_to_nobody_without_the_key_and_to_no_page_of_another_name(
    keyed: Node, node: Node
) -> None:
    assert (await call(keyed, "GET", "/v1/overview")).status == 401
    assert (await overview(keyed, key=KEY))["node"] == keyed.id
    for headers in ({"Host": "rebound.example"}, {"Origin": "https://evil.example"}):
        assert (await call(node, "GET", "/v1/overview", headers=headers)).status == 403


async def test_however_many_ask_it_is_read_once_a_second(node: Node) -> None:
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await overview(node))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
    read_at = sorted({answer["at"] for answer in answers})
    assert len(answers) == 20
    assert all(later - earlier >= READ_AGAIN_MS for earlier, later in pairwise(read_at)), read_at


@pytest.mark.parametrize("query", ["?rooms=51", "?rooms=-1", "?history=perhaps", "?what=1"])
async def test_a_question_that_makes_no_sense_is_refused(node: Node, query: str) -> None:
    assert (await call(node, "GET", f"/v1/overview{query}")).status == 400
