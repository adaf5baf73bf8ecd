"""Sockets that never finish their handshake: they hold no more than their bound, and lock nobody out."""

import json
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from tests.support.attack import MIB, Bystander, keeps_memory, many, read_to_the_end
from tests.support.memory import open_files, rss_bytes
from tests.support.metrics import scrape, value
from tests.support.node import PROJECT, Node
from tests.support.rawclient import RawClient, request, speaking
from tests.support.waiting import eventually, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address"),
]

PER_ADDRESS = 50
IN_ALL = 120
BOUNDS = ("--limits.pending_per_ip", str(PER_ADDRESS), "--limits.pending", str(IN_ALL))
ATTACKER = "127.0.0.66"
FOREVER = ("--limits.handshake_ms", "600000")
TLS = PROJECT / "tests" / "config" / "tls"


async def pending(node: Node) -> float:
    return value(await scrape(node), "presence_pending_sockets")


async def test_the_oldest_of_an_address_go_and_others_come_in(tmp_path: Path) -> None:
    async with Node(tmp_path, *BOUNDS, *FOREVER) as node:
        async with Bystander(node.port) as bystander, many(node.port, 3 * PER_ADDRESS, ATTACKER) as silent:
            for client in silent[: 2 * PER_ADDRESS]:
                assert await read_to_the_end(client) == b""
            await eventually(lambda: pending(node), lambda count: count == PER_ADDRESS)
            for source in ("127.0.0.67", ATTACKER):
                async with speaking(node.port, source=source) as client:
                    assert (await client.request(t="ping", id=1))["t"] == "pong"
            await silent[-1].upgrade()
            await bystander.keeps_service()
        dropped = 2 * PER_ADDRESS + 1
        assert value(await scrape(node), "presence_pending_dropped_total") == dropped
        await until(lambda: said(node) == dropped, lambda: node.log)
        assert len(node.log.splitlines()) <= 10


def said(node: Node) -> int:
    """Return of how many dropped sockets the log tells."""
    lines = [json.loads(line) for line in node.log.splitlines() if "pending sockets" in line]
    return sum(line.get("times", 1) for line in lines)


async def test_a_flood_from_many_addresses_leaves_one_alone_in_peace(tmp_path: Path) -> None:
    async with Node(tmp_path, *BOUNDS, *FOREVER) as node, RawClient(node.port) as slow:
        await slow.send(request()[:-2])
        for number in range(10):
            async with many(node.port, PER_ADDRESS, f"127.0.1.{number}"):
                await eventually(lambda: pending(node), lambda count: count >= PER_ADDRESS)
                assert await pending(node) <= IN_ALL
        await slow.send(b"\r\n")
        assert (await slow.respond()).status == 101


async def test_a_request_may_have_16_kib_and_no_more(node: Node) -> None:
    line = b"X: " + b"y" * 4_000 + b"\r\n"
    async with RawClient(node.port) as client:
        await client.send(request()[:-2] + line * 3 + b"\r\n")
        assert (await client.respond()).status == 101
    for pieces in ((request()[:-2] + line * 5,), (request()[:-2], *(line,) * 5)):
        async with RawClient(node.port) as client:
            for piece in pieces:
                await client.send(piece)
                await anyio.sleep(0.01)
            refusal = await client.respond()
            assert refusal.problem["status"] == 431


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("Connection", "a,"),
        ("Upgrade", "a,"),
        ("Sec-WebSocket-Protocol", "a,"),
        ("Sec-WebSocket-Extensions", "a,"),
        ("Sec-WebSocket-Extensions", "a;b;c;"),
    ],
)
async def test_long_lists_in_headers_are_refused_before_they_are_parsed(
    node: Node, name: str, item: str
) -> None:
    async with RawClient(node.port) as client:
        refusal = await client.ask(headers={name: item * (7_800 // len(item)) + "z"})
        assert (refusal.problem["status"], refusal.problem["detail"]) == (
            400,
            f"{name} has more than 64 items and parameters",
        )


async def test_beginnings_of_requests_take_little_memory(node: Node) -> None:
    before = rss_bytes(node.pid)
    beginning = b"GET /ws HTTP/1.1\r\n" + (b"X: " + b"y" * 4_000 + b"\r\n") * 3
    async with Bystander(node.port) as bystander, many(node.port, 600, ATTACKER) as clients:
        for client in clients:
            client.send_some(beginning)
        await bystander.keeps_service()
        keeps_memory(node, before, 32 * MIB)


async def test_a_storm_of_whole_requests_pushes_nobody_out(tmp_path: Path) -> None:
    async with Node(tmp_path, *BOUNDS) as node, many(node.port, 40) as clients:
        storm: list[RawClient] = list(clients)
        for client in storm:
            client.send_some(request())
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(_come_in, node)
        for client in storm:
            assert (await client.respond()).status == 101


async def _come_in(node: Node) -> None:
    for _ in range(20):
        async with speaking(node.port):
            pass


async def test_tls_sockets_that_were_answered_and_stay_are_counted_too(tmp_path: Path) -> None:
    flags = ("--server.tls_cert", str(TLS / "cert.pem"), "--server.tls_key", str(TLS / "key.pem"))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with Node(tmp_path, *BOUNDS, *flags) as node, AsyncExitStack() as stack:
        files = open_files(node.pid)
        for _ in range(2 * PER_ADDRESS):
            client = await anyio.connect_tcp("127.0.0.1", node.port, ssl_context=context)
            stack.push_async_callback(anyio.aclose_forcefully, client)
            await client.send(request("/healthz", base={}))
        await eventually(lambda: dropped(node), lambda count: count == PER_ADDRESS)
        await until(lambda: open_files(node.pid) <= files)


async def dropped(node: Node) -> float:
    return value(await scrape(node), "presence_pending_dropped_total")


async def test_tls_sockets_that_say_nothing_are_counted_too(tmp_path: Path) -> None:
    flags = ("--server.tls_cert", str(TLS / "cert.pem"), "--server.tls_key", str(TLS / "key.pem"))
    async with Node(tmp_path, *BOUNDS, *FOREVER, *flags) as node:
        files = open_files(node.pid)
        async with many(node.port, 2 * PER_ADDRESS, ATTACKER) as silent:
            for client in silent[:PER_ADDRESS]:
                assert await read_to_the_end(client) == b""
            await eventually(lambda: pending(node), lambda count: count == PER_ADDRESS)
        await eventually(lambda: pending(node), lambda count: count == 0)
        await until(lambda: open_files(node.pid) <= files)
