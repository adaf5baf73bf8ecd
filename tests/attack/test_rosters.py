"""Asking for large rosters again and again, and not reading them: a short request makes a long answer."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from tests.support.api import call
from tests.support.attack import MIB, Bystander, keeps_memory
from tests.support.memory import rss_bytes
from tests.support.node import Node
from tests.support.rawclient import MSGPACK, speaking, text
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

ATTACKERS = 5
ASKED = 60
MEMBERS = 1_000
STATE = {"pad": "x" * 4_000}
ROOM = "crowd"
RECEIVE_BYTES = 4_096
PINNED_MAX = 32 * MIB
"""What five connections may cost that each have a page or two in their outboxes."""
TOTAL_BYTES = 4 * MIB
LARGE_PAGES = ("--limits.outbox_soft_bytes", str(384 * 1_024))
"""Pages as large as they can be: 256 KiB."""
HEADERS = (
    {"Sec-WebSocket-Protocol": MSGPACK},
    {"Sec-WebSocket-Protocol": MSGPACK, "Sec-WebSocket-Extensions": "permessage-deflate"},
)


async def fill(node: Node, room: str = ROOM, members: int = MEMBERS) -> None:
    """Put members with large states into a room."""
    limit = anyio.Semaphore(20)

    async def enter(number: int) -> None:
        async with limit:
            body = {"user": f"bot-{number}", "info": {}, "state": STATE, "ttl_ms": 600_000}
            answer = await call(node, "PUT", f"/v1/rooms/{room}/members/bot-{number:05}", body)
            assert answer.status == 201

    async with anyio.create_task_group() as tasks:
        for number in range(members):
            tasks.start_soon(enter, number)


@pytest.fixture(scope="module")
async def crowd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node with a large room, and a bound on what all connections may have unsent that a test can reach."""
    args = ("--limits.outbox_total_bytes", str(TOTAL_BYTES))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        await fill(node)
        yield node
        assert "Traceback" not in node.log


REQUESTS = {
    "members": {"t": "members", "limit": 1_000},
    "watch": {"t": "watch", "mode": "full"},
    "join": {"t": "join", "mode": "full"},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_who_asks_for_rosters_and_does_not_read_pins_little_and_others_keep_their_service(
    crowd: Node, fields: dict[str, Any]
) -> None:
    async with Bystander(crowd.port) as bystander, AsyncExitStack() as stack:
        attackers = [
            await stack.enter_async_context(
                speaking(crowd.port, f"/ws?user=mallory-{number}", receive_bytes=RECEIVE_BYTES)
            )
            for number in range(ATTACKERS)
        ]
        for attacker in attackers:
            await attacker.request(t="watch", room=ROOM, mode="none", id=0)
        before = rss_bytes(crowd.pid)
        for attacker in attackers:
            await attacker.send(b"".join(text(**fields, room=ROOM, id=n) for n in range(1, ASKED + 1)))
        for _ in range(20):
            await bystander.keeps_service()
            keeps_memory(crowd, before, PINNED_MAX)


async def test_who_reads_gets_all_that_it_asked_for(crowd: Node) -> None:
    async with speaking(crowd.port) as client:
        await client.request(t="watch", room=ROOM, mode="none", id=0)
        await client.send(b"".join(text(t="members", room=ROOM, limit=1_000, id=n) for n in range(ASKED)))
        for number in range(ASKED):
            page = await client.hear()
            assert (page["t"], page["id"]) == ("page", number)
            assert len(json.dumps(page["members"])) <= 1.1 * 256 * 1_024
            assert page["cursor"] is not None


@pytest.mark.parametrize("compressed", [False, True])
async def test_pages_take_tokens_by_their_size(
    tmp_path_factory: pytest.TempPathFactory, compressed: bool
) -> None:
    args = (
        *LARGE_PAGES,
        "--throttle.messages",
        "50/1s burst 100",
        "--server.compression",
        str(compressed).lower(),
    )
    async with Node(tmp_path_factory.mktemp("node"), *args) as node, Bystander(node.port):
        await fill(node, members=100)
        async with speaking(node.port, headers=HEADERS[compressed]) as attacker:
            await attacker.request(t="watch", room=ROOM, mode="none", id=0)
            for number in range(1, 2 * ASKED):
                await attacker.say(t="members", room=ROOM, id=number)
            ending = await attacker.ending()
            assert ending.code == 4008
            pages = [message for message in ending.messages if message["t"] == "page"]
            assert len(pages) < ASKED


async def slow_closes(node: Node) -> float:
    """Return how many connections the node has closed because they were too slow."""
    page = (await call(node, "GET", "/metrics")).body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith("presence_slow_closes_total ")]
    return float(line.split()[1])


async def test_beyond_what_may_wait_on_the_node_those_with_most_unsent_are_closed(crowd: Node) -> None:
    """Each stays below its own hard limit, and all together pass the node's."""
    async with Bystander(crowd.port) as bystander, AsyncExitStack() as stack:
        before, closes = rss_bytes(crowd.pid), await slow_closes(crowd)
        for number in range(4 * TOTAL_BYTES // (2 * 48 * 1_024)):
            attacker = await stack.enter_async_context(
                speaking(crowd.port, f"/ws?user=mallory-{number}", receive_bytes=RECEIVE_BYTES)
            )
            await attacker.send(text(t="watch", room=ROOM, mode="none", id=0))
            await attacker.send(
                b"".join(text(t="members", room=ROOM, limit=1_000, id=n) for n in range(1, 4))
            )
        with anyio.fail_after(DEADLINE_S):
            while await slow_closes(crowd) == closes:  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(0.05)
        keeps_memory(crowd, before, PINNED_MAX)
        await bystander.keeps_service()
