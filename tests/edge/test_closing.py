"""How connections end, who says what last, and what becomes of the memberships."""

import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from tests.edge.conftest import UNTHROTTLED
from tests.support.metrics import scrape, value
from tests.support.node import Node
from tests.support.rawclient import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    EndedError,
    Fields,
    RawClient,
    frame,
    speaking,
    text,
)
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

GRACE_LOST_MS = 600


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    args = (*UNTHROTTLED, "--presence.grace_clean_ms", "100", "--presence.grace_lost_ms", str(GRACE_LOST_MS))
    async with Node(tmp_path_factory.mktemp("node"), *args) as node:
        yield node


async def farewell(node: Node, room: str, end: Callable[[RawClient], Awaitable[Any]]) -> tuple[Fields, float]:
    """End a member's connection; return its `leaves` entry as another sees it, and how many ms later."""
    async with speaking(node.port, "/ws?user=bob") as bob, speaking(node.port, "/ws?user=alice") as alice:
        await bob.request(t="watch", room=room, id=1)
        await alice.request(t="join", room=room, id=1)
        begun = time.monotonic()
        await end(alice)
        diff = (await bob.until("diff"))[-1]
        while "leaves" not in diff:
            diff = (await bob.until("diff"))[-1]
        (leave,) = diff["leaves"]
        assert (leave["cid"], leave["user"]) == (alice.cid, "alice")
        assert (diff["count"], diff["users"]) == (0, 0)
        return leave, (time.monotonic() - begun) * 1000


async def close(client: RawClient, code: int | None, reason: bytes = b"") -> None:
    """Close as a client; the server echoes it and says nothing else."""
    payload = b"" if code is None else struct.pack("!H", code) + reason
    await client.send(frame(CLOSE, payload))
    received = await client.frame()
    assert (received.opcode, received.payload) == (CLOSE, payload)
    ending = await client.ending(answering=False)
    assert (ending.messages, ending.reset) == ([], False)


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_client_that_closes_cleanly_is_closed(node: Node, code: int | None) -> None:
    leave, after_ms = await farewell(node, f"clean-{code}", lambda alice: close(alice, code, b""))
    assert leave["reason"] == "closed"
    assert after_ms >= 100


@pytest.mark.parametrize("code", [4010, 4003, 4001, 4008, 4009, 4200, 3000, 1002, 1011])
async def test_a_client_cannot_say_that_it_was_replaced_or_kicked(node: Node, code: int) -> None:
    leave, after_ms = await farewell(node, f"own-{code}", lambda alice: close(alice, code, b"so there"))
    assert leave["reason"] == "timeout"
    assert after_ms >= GRACE_LOST_MS


async def test_a_connection_that_just_ends_is_lost(node: Node) -> None:
    async def fin(alice: RawClient) -> None:
        alice.end_writing()
        assert (await alice.ending()).code is None

    async def rst(alice: RawClient) -> None:
        alice.reset()

    async def rst_in_a_message(alice: RawClient) -> None:
        await alice.send(text(t="ping")[:-3])
        alice.reset()

    for end in (fin, rst, rst_in_a_message):
        leave, after_ms = await farewell(node, f"lost-{end.__name__}", end)
        assert leave["reason"] == "timeout"
        assert after_ms >= GRACE_LOST_MS


async def test_a_client_that_breaks_the_rules_is_lost(node: Node) -> None:
    for bad in (frame(TEXT, b"{}", masked=False), frame(BINARY, b"{}"), frame(TEXT, b"\xff")):

        async def offend(alice: RawClient, bad: bytes = bad) -> None:
            await alice.send(bad)
            assert (await alice.ending()).bye

        leave, after_ms = await farewell(node, "rules", offend)
        assert leave["reason"] == "timeout"
        assert after_ms >= GRACE_LOST_MS


async def test_an_abuser_is_kicked_at_once(node: Node) -> None:
    async def offend(alice: RawClient) -> None:
        await alice.send(frame(TEXT, b"{}") * 20)
        ending = await alice.ending()
        assert (ending.code, ending.bye is not None) == (4008, True)

    leave, after_ms = await farewell(node, "abuse", offend)
    assert leave["reason"] == "kicked"
    assert after_ms < GRACE_LOST_MS


async def test_a_close_in_the_middle_of_a_message_is_answered(node: Node) -> None:
    async with speaking(node.port) as client:
        await client.send(frame(TEXT, b"{", fin=False) + frame(CLOSE, struct.pack("!H", 1000)))
        ending = await client.ending(answering=False)
        assert ending.code == 1000 or (ending.code == 1002 and ending.bye)


async def test_what_comes_after_a_close_frame_is_not_heard(node: Node) -> None:
    async with speaking(node.port) as bob, speaking(node.port) as alice:
        await bob.request(t="watch", room="after-close", id=1)
        await alice.request(t="watch", room="after-close", id=1)
        late = text(t="publish", room="after-close", data="late")
        await alice.send(frame(CLOSE, struct.pack("!H", 1000)) + late)
        assert (await alice.ending(answering=False)).messages == []
        await bob.say(t="ping", id=2)
        assert [message["t"] for message in await bob.until("pong")] == ["pong"]


async def test_the_bye_says_what_the_close_frame_says(node: Node) -> None:
    async with speaking(node.port) as client:
        await client.say(t="ping", id=1)
        await client.send(frame(BINARY, b"x"))
        ending = await client.ending()
    assert [message["t"] for message in ending.messages] == ["pong", "bye"]
    assert ending.bye == {"t": "bye", "code": 1003, "reason": ending.reason}
    assert ending.reason


async def test_a_request_with_an_id_gets_one_reply_and_one_without_gets_none(node: Node) -> None:
    room = "replies"
    requests: list[tuple[Fields, str | None]] = [
        ({"t": "join", "room": room}, "sync"),
        ({"t": "join", "room": room, "state": {"n": 1}}, "sync"),
        ({"t": "watch", "room": room}, "sync"),
        ({"t": "update", "room": room, "state": {"n": 2}}, "ok"),
        ({"t": "update", "room": room, "state": {}, "if_version": 1}, "error"),
        ({"t": "publish", "room": room, "data": None}, "ok"),
        ({"t": "signal", "room": room, "key": "k", "data": 1}, None),
        ({"t": "members", "room": room}, "page"),
        ({"t": "ping"}, "pong"),
        ({"t": "auth", "token": "x"}, "error"),
        ({"t": "update", "room": "elsewhere", "state": {}}, "error"),
        ({"t": "signal", "room": "elsewhere", "key": "k", "data": 1}, "error"),
        ({"t": "nonsense"}, "error"),
        ({"t": "join", "room": "no spaces"}, "error"),
        ({"t": "join"}, "error"),
        ({"t": "leave", "room": room}, "ok"),
        ({"t": "leave", "room": room}, "error"),
    ]
    async with speaking(node.port) as client:
        for number, (fields, _) in enumerate(requests):
            await client.say(**fields, id=number)
        await client.say(t="ping", id=99)
        replies = [message for message in await client.until("pong", id=99) if "id" in message]
        expected = [(n, reply) for n, (_, reply) in enumerate(requests) if reply]
        assert sorted((reply["id"], reply["t"]) for reply in replies) == [*expected, (99, "pong")]
    async with speaking(node.port) as client:
        for fields, _ in requests:
            await client.say(**fields)
        await client.say(t="ping", id=99)
        heard = await client.until("pong", id=99)
        assert not [message for message in heard if "id" in message and message["id"] != 99]
        assert not [message for message in heard if message["t"] == "ok"]
        assert len([message for message in heard if message["t"] == "error"]) == len(
            [reply for _, reply in requests if reply == "error"]
        )


async def test_nothing_follows_a_close_frame_not_even_pongs(node: Node) -> None:
    async with speaking(node.port, "/ws?user=alice") as client:
        await client.send(frame(TEXT, b"\xff") + frame(PING, b"one"))
        while (received := await client.frame()).opcode != CLOSE:
            pass
        assert received.payload[:2] == struct.pack("!H", 1007)
        await client.send(frame(PING, b"another") * 20)
        await client.send(frame(CLOSE, received.payload[:2]))
        assert bytes(client._buffer) + await client._rest() == b""


async def test_a_client_that_floods_after_the_close_frame_is_not_read_from(node: Node) -> None:
    async with speaking(node.port, "/ws?user=alice") as client:
        await client.send(frame(TEXT, b"\xff"))
        while (await client.frame()).opcode != CLOSE:
            pass
        before = value(await scrape(node), "presence_received_bytes_total")
        with anyio.move_on_after(DEADLINE_S), suppress(EndedError, OSError):
            while True:
                await client.send(frame(PING, b"x" * 125) * 500)
        received = value(await scrape(node), "presence_received_bytes_total") - before
        assert received < 1_000_000
