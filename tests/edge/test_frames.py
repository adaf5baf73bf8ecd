"""Frames that break RFC 6455 or the limits, and frames that only look as if they did."""

import json
import struct
import zlib
from itertools import count
from pathlib import Path

import msgpack
import pytest

from tests.edge.conftest import UNTHROTTLED
from tests.support.memory import rss_bytes
from tests.support.node import Node
from tests.support.rawclient import (
    BINARY,
    CLOSE,
    CONT,
    MSGPACK,
    PING,
    PONG,
    TEXT,
    RawClient,
    frame,
    request,
    speaking,
    text,
)

pytestmark = pytest.mark.anyio

MESSAGE_BYTES = 16_384
MIB = 2**20


def padded(size: int, **fields: object) -> bytes:
    """Make a JSON message of `size` bytes."""
    bare = len(json.dumps({**fields, "pad": ""}))
    return json.dumps({**fields, "pad": "x" * (size - bare)}).encode()


async def closes(client: RawClient, data: bytes, code: int) -> None:
    """Send bytes after which the server says `bye` and closes with `code`."""
    await client.send(data)
    ending = await client.ending()
    assert (ending.code, ending.bye is not None) == (code, True), ending


# --- RFC 6455 ---


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b'{"t":"ping"}', masked=False),
        frame(PING, masked=False),
        frame(TEXT, b'{"t":"ping"}', rsv=1),
        frame(TEXT, b'{"t":"ping"}', rsv=2),
        frame(TEXT, b'{"t":"ping"}', rsv=4),
        frame(PING, rsv=4),
        *(frame(opcode) for opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF)),
        frame(PING, b"x", fin=False),
        frame(PONG, b"x", fin=False),
        frame(CLOSE, struct.pack("!H", 1000), fin=False),
        frame(PING, b"x" * 126),
        frame(PONG, b"x" * 126),
        frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124),
        frame(CONT, b"x"),
        frame(CONT, b"x", fin=False),
        frame(TEXT, b'{"t"', fin=False) + frame(TEXT, b':"ping"}'),
        frame(TEXT, b'{"t"', fin=False) + frame(BINARY, b':"ping"}'),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, struct.pack("!H", 0)),
        frame(CLOSE, struct.pack("!H", 999)),
        frame(CLOSE, struct.pack("!H", 1005)),
        frame(CLOSE, struct.pack("!H", 1006)),
        frame(CLOSE, struct.pack("!H", 5000)),
        b"\x81\xff" + b"\xff" * 8 + b"mask",
    ],
    ids=map(str, count()),  # the frames have random masks
)
async def test_what_rfc_6455_does_not_allow_is_a_1002(node: Node, data: bytes) -> None:
    async with speaking(node.port) as client:
        await client.send(data)
        ending = await client.ending()
        assert (ending.code, ending.bye is not None) == (
            1009 if data.startswith(b"\x81\xff") else 1002,
            True,
        )


async def test_a_message_may_come_in_fragments_with_control_frames_in_between(node: Node) -> None:
    async with speaking(node.port) as client:
        for piece in (b'{"t":', b'"ping",', b"", b'"id":7'):
            await client.send(frame(TEXT if piece == b'{"t":' else CONT, piece, fin=False))
            await client.send(frame(PING, piece) + frame(PONG))
            pong = await client.frame()
            assert (pong.opcode, pong.payload) == (PONG, piece)
        await client.send(frame(CONT, b"}"))
        assert (await client.hear())["id"] == 7


async def test_a_message_may_come_a_byte_at_a_time(node: Node) -> None:
    async with speaking(node.port) as client:
        for byte in text(t="ping", id=7):
            await client.send(bytes([byte]))
        assert (await client.hear())["id"] == 7


async def test_a_character_may_be_cut_by_fragments(node: Node) -> None:
    async with speaking(node.port) as client:
        message = '{"t":"ping","id":7,"x":"ж"}'.encode()
        cut = message.index("ж".encode()) + 1
        await client.send(frame(TEXT, message[:cut], fin=False) + frame(CONT, message[cut:]))
        assert (await client.hear())["id"] == 7


async def test_a_ping_is_answered_with_what_it_brought(node: Node) -> None:
    async with speaking(node.port) as client:
        for payload in (b"", b"x", b"\x00\xff" * 62, b"y" * 125):
            await client.send(frame(PING, payload))
            pong = await client.frame()
            assert (pong.opcode, pong.payload) == (PONG, payload)


# --- UTF-8 ---


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xd0"])
@pytest.mark.parametrize("shape", ['{"t":"ping","ignored":"%s"}', '{"t":"%s"}', "%s"])
async def test_text_that_is_not_utf_8_is_a_1007_wherever_it_is(node: Node, bad: bytes, shape: str) -> None:
    async with speaking(node.port) as client:
        await closes(client, frame(TEXT, shape.encode().replace(b"%s", bad)), 1007)


async def test_fragments_that_are_not_utf_8_together_are_a_1007(node: Node) -> None:
    async with speaking(node.port) as client:
        pieces = frame(TEXT, b'{"t":"ping","x":"\xd0', fin=False) + frame(CONT, b'"}')
        await closes(client, pieces, 1007)


async def test_invalid_utf_8_reaches_nobody(node: Node) -> None:
    async with speaking(node.port) as bob, speaking(node.port) as mallory:
        await bob.request(t="watch", room="utf8", id=1)
        await mallory.request(t="watch", room="utf8", id=1)
        await closes(mallory, frame(TEXT, b'{"t":"publish","room":"utf8","data":"\xff"}'), 1007)
        await bob.request(t="publish", room="utf8", data=1, id=2)


async def test_msgpack_with_a_text_that_is_not_utf_8_is_a_bad_message(node: Node) -> None:
    async with speaking(node.port, headers={"Sec-WebSocket-Protocol": MSGPACK}) as client:
        message = msgpack.packb({"t": "publish", "room": "a", "data": "xx"}).replace(b"xx", b"\xff\xff")
        await client.send(frame(BINARY, message))
        assert (await client.hear())["code"] == "bad_message"


# --- the kind of frame ---


async def test_binary_is_not_json_and_text_is_not_msgpack(node: Node) -> None:
    async with speaking(node.port) as client:
        await closes(client, frame(BINARY, b'{"t":"ping"}'), 1003)
    async with speaking(node.port, headers={"Sec-WebSocket-Protocol": MSGPACK}) as client:
        await closes(client, frame(TEXT, msgpack.packb({"t": "ping"})), 1003)


# --- sizes ---


async def test_a_message_may_have_exactly_message_bytes(node: Node) -> None:
    async with speaking(node.port) as client:
        await client.send(frame(TEXT, padded(MESSAGE_BYTES, t="ping", id=1)))
        assert (await client.hear())["id"] == 1
        whole = padded(MESSAGE_BYTES, t="ping", id=2)
        await client.send(frame(TEXT, whole[:10_000], fin=False) + frame(CONT, whole[10_000:]))
        assert (await client.hear())["id"] == 2


async def test_a_longer_message_is_a_1009_in_one_piece_or_in_many(node: Node) -> None:
    whole = padded(MESSAGE_BYTES + 1, t="ping", id=1)
    async with speaking(node.port) as client:
        await closes(client, frame(TEXT, whole), 1009)
    async with speaking(node.port) as client:
        await closes(client, frame(TEXT, whole[:9_000], fin=False) + frame(CONT, whole[9_000:]), 1009)


async def test_fragments_for_ever_are_a_1009_before_they_are_many_bytes(node: Node) -> None:
    async with speaking(node.port) as client:
        await client.send(frame(TEXT, b'{"t":"ping","x":"', fin=False))
        await closes(client, frame(CONT, b"x" * 1_000, fin=False) * 17, 1009)


@pytest.mark.parametrize("announced", [2**30, 2**63 - 1])
async def test_a_gib_announced_is_a_1009_at_once_and_takes_no_memory(node: Node, announced: int) -> None:
    before = rss_bytes(node.pid)
    async with speaking(node.port) as client:
        await closes(client, frame(TEXT, announced=announced), 1009)
    assert rss_bytes(node.pid) - before < 8 * MIB


async def test_what_comes_after_a_failure_is_not_heard(node: Node) -> None:
    async with speaking(node.port) as bob, speaking(node.port) as mallory:
        await bob.request(t="watch", room="after", id=1)
        await mallory.request(t="watch", room="after", id=1)
        last = text(t="publish", room="after", data="too late")
        await closes(mallory, frame(BINARY, b"x") + last, 1003)
        assert (await bob.request(t="publish", room="after", data=1, id=2))["t"] == "ok"


async def test_a_deflate_bomb_is_a_1009_and_takes_no_memory(tmp_path: Path) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = deflate.compress(b'{"t":"ping","x":"' + b"x" * (15 * MIB)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    bomb = bomb.removesuffix(b"\x00\x00\xff\xff")
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    args = (*UNTHROTTLED, "--server.compression", "true", "--limits.message_bytes", "32768")
    async with Node(tmp_path, *args) as node:
        async with speaking(node.port, headers=offer) as client:
            before = rss_bytes(node.pid)
            assert len(bomb) < 32_768
            await closes(client, frame(TEXT, bomb, rsv=4), 1009)
        async with speaking(node.port, headers=offer) as client:
            pieces = frame(TEXT, bomb[:9], fin=False, rsv=4) + frame(CONT, bomb[9:99], fin=False)
            await closes(client, pieces + frame(CONT, bomb[99:]), 1009)
        async with speaking(node.port, headers=offer) as client:
            await closes(client, frame(TEXT, b"\xff" * 100, rsv=4), 1002)
        assert rss_bytes(node.pid) - before < 8 * MIB


# --- turns ---


async def test_every_message_of_a_burst_is_answered_once_and_in_order(node: Node) -> None:
    burst = 1_000
    async with speaking(node.port) as client:
        await client.send(b"".join(text(t="ping", id=n) for n in range(burst)))
        assert [(await client.hear())["id"] for _ in range(burst)] == list(range(burst))


async def test_what_was_sent_before_a_close_frame_is_done(node: Node) -> None:
    burst = 200
    async with speaking(node.port) as bob, speaking(node.port) as alice:
        await bob.request(t="watch", room="burst", id=1)
        await alice.request(t="watch", room="burst", id=1)
        messages = [text(t="publish", room="burst", data=n) for n in range(burst)]
        await alice.send(b"".join(messages) + frame(CLOSE, struct.pack("!H", 1000)))
        assert (await alice.ending()).code == 1000
        await bob.say(t="ping", id=2)
        heard = await bob.until("pong")
        assert [message["data"] for message in heard if message["t"] == "message"] == list(range(burst))


async def test_a_burst_after_the_handshake_is_cut_into_turns_too(node: Node) -> None:
    burst = 1_000
    async with RawClient(node.port) as client:
        await client.send(request() + b"".join(text(t="ping", id=n) for n in range(burst)))
        assert (await client.respond()).status == 101
        assert (await client.hear())["t"] == "welcome"
        assert [(await client.hear())["id"] for _ in range(burst)] == list(range(burst))
