"""The internal port: silent sockets, endless requests, and requests that two servers read differently."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import anyio
import pytest

from presence_server.api.http import REQUEST_S, SOCKETS_MAX
from tests.support.api import call
from tests.support.attack import cpu_seconds, many, read_to_the_end
from tests.support.memory import open_files
from tests.support.node import Node
from tests.support.rawclient import RawClient, request
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

LOCAL = {"Host": "127.0.0.1"}
UNREAD: Final = request("/openapi.json", base=LOCAL) * 400
"""Requests whose answers are more than the kernel and the node's transport keep."""


@asynccontextmanager
async def unread(node: Node, count: int) -> AsyncIterator[list[RawClient]]:
    """Ask much on many sockets, and read nothing."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(RawClient(node.api_port, receive_bytes=2_048))
            for _ in range(count)
        ]
        for client in clients:
            await client.send(UNREAD)
        yield clients


async def works(node: Node) -> float:
    """Return how much CPU time a node uses in half a second."""
    before = cpu_seconds(node.pid)
    await anyio.sleep(0.5)
    return cpu_seconds(node.pid) - before


async def is_answered(node: Node) -> bool:
    """Tell whether a probe is answered; a socket that is one too many is not."""
    try:
        return (await call(node, "GET", "/healthz")).status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def test_silent_sockets_have_a_bound_and_an_end_and_calls_are_answered(node: Node) -> None:
    files = open_files(node.pid)
    async with many(node.api_port, SOCKETS_MAX + 100) as silent:
        assert (await call(node, "GET", "/v1/nodes")).status == 200
        assert open_files(node.pid) <= files + SOCKETS_MAX + 10
        with anyio.fail_after(REQUEST_S):
            for client in silent[:100]:
                assert await read_to_the_end(client) == b""
        await silent[-1].send(request("/v1/nodes", base=LOCAL))
        assert b" 200 " in await silent[-1].receive()
        with anyio.fail_after(REQUEST_S * 4):
            for client in silent[100:]:
                await read_to_the_end(client)
    await until(lambda: open_files(node.pid) <= files)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /v1/users/status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{",
    ],
    ids=["head", "body"],
)
async def test_a_request_that_never_ends_does(node: Node, begun: bytes) -> None:
    async with RawClient(node.api_port) as client:
        await client.send(begun)
        with anyio.fail_after(REQUEST_S * 4):
            await read_to_the_end(client)


async def test_answers_that_nobody_reads_lock_nobody_out_and_have_an_end(node: Node) -> None:
    files = open_files(node.pid)
    async with unread(node, SOCKETS_MAX + 1):
        for _ in range(10):
            await eventually(lambda: is_answered(node), lambda answered: answered)
        await until(lambda: open_files(node.pid) <= files)


async def test_answers_that_nobody_reads_do_not_hold_up_the_end_of_a_node(tmp_path: Path) -> None:
    async with Node(tmp_path) as node, unread(node, 20):
        await eventually(lambda: works(node), lambda seconds: seconds < 0.05)
        assert await node.stop() == 0
        assert "Traceback" not in node.log


async def test_malformed_requests_do_not_fill_the_log(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        for _ in range(200):
            async with RawClient(node.api_port) as client:
                await client.send(b"\0\r\n\r\n")
                assert b" 400 " in await client.receive()
        await until(lambda: '"times"' in node.log, lambda: node.log)
        assert node.log.count("is not served") < 50


async def test_two_lengths_of_one_body_are_refused_on_both_ports(node: Node) -> None:
    lengths = {"Transfer-Encoding": "chunked", "Content-Length": "5", "Content-Type": "application/json"}
    for path in ("/v1/users/status", "/healthz", "/nothing"):
        async with RawClient(node.api_port) as client:
            await client.send(request(path, lengths, method="POST", base=LOCAL) + b"0\r\n\r\n")
            answer = await client.respond()
            assert (answer.status, answer.headers["connection"]) == (400, "close")
        async with RawClient(node.port) as client:
            await client.send(request(path, lengths, method="POST", base=LOCAL) + b"0\r\n\r\n")
            assert (await client.respond()).status == 400


async def test_metrics_are_not_told_to_a_page_that_comes_by_another_name(node: Node, tmp_path: Path) -> None:
    for path, elsewhere in (("/metrics", 403), ("/openapi.json", 403), ("/healthz", 200), ("/readyz", 200)):
        for headers, status in (
            ({"Host": "rebound.example"}, elsewhere),
            ({"Host": "127.0.0.1", "Origin": "https://evil.example"}, elsewhere),
            ({"Host": "127.0.0.1"}, 200),
            ({"Host": "localhost:8081"}, 200),
        ):
            assert (await call(node, "GET", path, headers=headers)).status == status, (path, headers)
    async with Node(tmp_path, "--api.key", "k" * 32) as keyed:
        assert (await call(keyed, "GET", "/metrics", headers={"Host": "10.0.0.7"})).status == 200


async def test_calls_that_nobody_may_make_are_counted_in_the_log_and_not_written_each(node: Node) -> None:
    before = node.log.count("api call")
    for _ in range(200):
        assert (await call(node, "GET", "/v1/rooms", headers={"Host": "evil.example"})).status == 403
    await until(lambda: sum(map(int, re.findall(r'"times": ?(\d+)', node.log))) >= 1)
    assert node.log.count("api call") - before < 100
