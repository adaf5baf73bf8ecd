"""Whatever comes in by any door, a node logs no fault, does not grow, and goes on serving.

12 s in all, or `FUZZ_SECONDS` (`.ci/run` 20, `make fuzz SECONDS=600`). Each day has inputs of its own: `FUZZ_SEED`,
which a failure prints, makes them again.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

import msgpack
import pytest

from tests.fuzz.mutator import Mutator
from tests.support.attack import MIB, Bystander, keeps_memory
from tests.support.memory import open_files, rss_bytes
from tests.support.node import Node
from tests.support.rawclient import (
    BINARY,
    CLOSE,
    CONT,
    MSGPACK,
    PING,
    TEXT,
    EndedError,
    RawClient,
    frame,
    request,
    text,
)
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "12"))
SEED: Final = int(os.environ.get("FUZZ_SEED", datetime.now(UTC).date().toordinal()))
GROWN_MAX: Final = 48 * MIB
FAULTS: Final = ("Traceback", "connection failed", "request failed", "api call failed", "never awaited")

MESSAGES: Final[tuple[dict[str, object], ...]] = (
    {"t": "join", "room": "r", "id": 1, "state": {"a": [1, 2.5, None, True, "ж"]}},
    {"t": "join", "room": "other", "mode": "count"},
    {"t": "watch", "room": "r", "mode": "none", "id": 2},
    {"t": "update", "room": "r", "state": {"x": {"y": []}}, "if_version": 1, "id": 3},
    {"t": "publish", "room": "r", "data": {"text": "hello", "n": 2**53}, "id": 4},
    {"t": "signal", "room": "r", "key": "cursor", "data": [1, 2]},
    {"t": "members", "room": "r", "limit": 10, "cursor": "0", "id": 5},
    {"t": "leave", "room": "r", "id": 6},
    {"t": "auth", "token": "x", "id": 7},
    {"t": "ping", "id": 8},
)
FRAMES: Final = (
    *(text(**message) for message in MESSAGES),
    frame(PING, b"x"),
    frame(TEXT, b'{"t":"pi', fin=False) + frame(PING) + frame(CONT, b'ng"}'),
    frame(CLOSE, b"\x03\xe8bye"),
    frame(TEXT, b"x" * 5_000),
    frame(BINARY, msgpack.packb(MESSAGES[0])),
)
REQUESTS: Final = (
    request("/ws?user=ann&info=%7B%22a%22%3A1%7D&resume=a.b.c&token=x"),
    request(headers={"Sec-WebSocket-Protocol": "presence.v1.msgpack, bearer.x, resume.y, refusals.close"}),
    request(
        headers={
            "Origin": "https://a.example",
            "X-Forwarded-For": "1.2.3.4, [::1]:80",
            "Authorization": "Bearer x",
        }
    ),
    request(headers={"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}),
    request("/healthz", base={"Host": "a", "If-None-Match": '"x", *'}),
    request() + text(t="ping", id=1),
)
PROXIED: Final = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n" + request(),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n" + request("/healthz"),
    b"PROXY UNKNOWN\r\n" + request(),
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x00\x51" + request(),
    b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + request(),
)
LOCAL: Final = {"Host": "127.0.0.1", "Content-Type": "application/json"}


def call(method: str, path: str, body: bytes = b"") -> bytes:
    return request(path, {"Content-Length": str(len(body))}, method=method, base=LOCAL) + body


CALLS: Final = (
    call("GET", "/v1/rooms?prefix=a&limit=10"),
    call("GET", "/v1/rooms/r%2Fx/members?cursor=0"),
    call("POST", "/v1/rooms/r/messages", b'{"data":{"a":[1]}}'),
    call("PUT", "/v1/rooms/r/members/bot", b'{"user":"bot","info":{},"state":{},"ttl_ms":1000}'),
    call("DELETE", "/v1/rooms/r/members/abc?ban_ms=1"),
    call("POST", "/v1/users/status", b'{"users":["ann","bob"]}'),
    call("POST", "/v1/throttle/hit", b'{"rule":"connect","key":"1.2.3.4","cost":1}'),
    call("GET", "/metrics"),
    call("GET", "/readyz?isolated=ok"),
)

Send = Callable[[Node, Mutator], Awaitable[None]]


async def send(port: int, data: bytes, mutator: Mutator) -> None:
    """Send bytes on a connection of their own, in one or two pieces, and end it in one way or the other."""
    async with RawClient(port) as client:
        try:
            cut = mutator.randrange(len(data) + 1) if mutator.random() < 0.3 else len(data)
            await client.send(data[:cut])
            await client.send(data[cut:])
            if mutator.random() < 0.3:
                client.end_writing()
            elif mutator.random() < 0.3:
                client.reset()
        except (EndedError, TimeoutError):
            return


def whole(corpus: tuple[bytes, ...], *, internal: bool = False) -> Send:
    """Return what sends an input on a connection of its own."""

    async def send_one(node: Node, mutator: Mutator) -> None:
        await send(node.api_port if internal else node.port, mutator.changed(corpus), mutator)

    return send_one


def conversing(corpus: tuple[bytes, ...], opcode: int | None, subprotocol: str | None) -> Send:
    """Return what sends inputs after a handshake, as frames or in frames with an opcode."""

    async def send_some(node: Node, mutator: Mutator) -> None:
        async with RawClient(node.port) as client:
            await client.upgrade("/ws?user=fuzz", {"Sec-WebSocket-Protocol": subprotocol})
            try:
                for _ in range(30):
                    data = mutator.changed(corpus)
                    await client.send(data if opcode is None else frame(opcode, data))
            except EndedError:
                return

    return send_some


JSON_MESSAGES: Final = tuple(json.dumps(message).encode() for message in MESSAGES)
TARGETS: Final[dict[str, Send]] = {
    "handshake": whole(REQUESTS),
    "frames": conversing(FRAMES, None, None),
    "json": conversing(JSON_MESSAGES, TEXT, None),
    "msgpack": conversing(tuple(msgpack.packb(message) for message in MESSAGES), BINARY, MSGPACK),
    "proxy": whole(PROXIED),
    "api": whole(CALLS, internal=True),
}


@pytest.mark.parametrize("target", TARGETS)
async def test_nothing_that_comes_in_is_a_fault(target: str, tmp_path: Path) -> None:
    sys.stdout.write(f"FUZZ_SEED={SEED}\n")
    mutator = Mutator(f"{SEED} {target}")
    flags = ("--proxy.trusted", "127.0.0.1", "--proxy.protocol", "true") if target == "proxy" else ()
    async with Node(tmp_path, "--limits.handshake_ms", "2000", *flags) as node:
        files = open_files(node.pid)
        for _ in range(30):
            await TARGETS[target](node, mutator)
        before = rss_bytes(node.pid)
        ends_s = monotonic() + SECONDS / len(TARGETS)
        inputs = 0
        while monotonic() < ends_s:
            await TARGETS[target](node, mutator)
            inputs += 1
        assert inputs > 10
        keeps_memory(node, before, GROWN_MAX)
        if target != "proxy":
            async with Bystander(node.port) as bystander:
                await bystander.keeps_service(1)
        await until(lambda: open_files(node.pid) <= files, lambda: open_files(node.pid))
        for fault in FAULTS:
            assert fault not in node.log, fault
