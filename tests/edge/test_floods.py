"""Many connections at once that mean no good, beside one that does."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.edge.conftest import UNTHROTTLED
from tests.support.memory import open_files, rss_bytes
from tests.support.node import Node
from tests.support.rawclient import (
    CONT,
    TEXT,
    EndedError,
    RawClient,
    frame,
    request,
    speaking,
    text,
)
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

MANY = 450
MIB = 2**20
HANDSHAKE_S = 2
GONE_S = 3 * DEADLINE_S
"""Longer than the handshake, two pings and a closing handshake that is never answered take together."""


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (*UNTHROTTLED, "--limits.handshake_ms", str(int(HANDSHAKE_S * 1_000)))
    args += ("--presence.ping_ms", "500", "--presence.ping_timeout_ms", "3000")
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


async def ended(client: RawClient) -> None:
    """Read to the end, whatever comes."""
    try:
        while True:
            await client.receive()
    except EndedError:
        return


ATTACKS = (
    b"",
    b"GET /ws HT",
    b"GET /ws HTTP/1.1\r\nX: " + b"y" * 8_000 + b"\r\n",
    b"GET /ws HTTP/1.1\r\n" + (b"X: " + b"y" * 500 + b"\r\n") * 100,
    request() + frame(TEXT, b"x" * 16_000)[:-1],
    request() + frame(TEXT, b"x" * 8_000, fin=False) + frame(CONT, b"x" * 8_000, fin=False),
    request() + frame(TEXT, announced=2**30),
    request() + text(t="ping")[:1],
    request("/static/presence-1.js"),
)


async def test_many_at_once_take_little_are_gone_in_time_and_nobody_else_notices(node: Node) -> None:
    async with speaking(node.port, "/ws?user=alice") as alice, AsyncExitStack() as stack:
        await alice.request(t="join", room="lobby", id=1)
        files, before = open_files(node.pid), rss_bytes(node.pid)
        attackers = []
        for number in range(MANY):
            attackers.append(await stack.enter_async_context(RawClient(node.port)))
            await attackers[-1].send(ATTACKS[number % len(ATTACKS)])
            if number % 10 == 0:
                await alice.request(t="ping", id=number)  # who says nothing for so long is gone
        async with anyio.create_task_group() as tasks:
            for attacker in attackers:
                tasks.start_soon(ended, attacker)
            with anyio.fail_after(GONE_S):
                number = 1
                while open_files(node.pid) > files:
                    number += 1
                    with anyio.fail_after(DEADLINE_S):
                        await alice.request(t="publish", room="lobby", data=number, id=number)
                    assert rss_bytes(node.pid) - before < MANY * 64 * 1_024 + 16 * MIB
                    await anyio.sleep(0.01)
        (member,) = (await alice.request(t="members", room="lobby", id=0))["members"]
        assert member["cid"] == alice.cid


async def test_connections_that_end_at_once_leave_nothing_open(node: Node) -> None:
    files, log = open_files(node.pid), len(node.log)
    for number in range(MANY):
        async with RawClient(node.port) as client:
            if number % 2:
                await client.send(request())
            if number % 3:
                client.reset()
    with anyio.fail_after(DEADLINE_S):
        while open_files(node.pid) > files:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.01)
    assert "connection failed" not in node.log[log:]
