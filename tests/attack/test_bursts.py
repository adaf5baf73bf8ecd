"""Bursts of messages and of handshakes: others are served before the burst is done.

A node is stopped (SIGSTOP) until the burst and, behind it, the other client's request lie in the kernel's buffers. The
node's own clock, in `welcome` and `pong`, tells who was served first, not when a client gets to reading its answer.
What a burst asks has no answer, so that nobody who is slow to read slows the burst.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.attack import Bystander, many
from tests.support.metrics import scrape, value
from tests.support.node import Node
from tests.support.rawclient import TEXT, RawClient, frame, request, speaking, text
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

BURSTS = 12
STORM = 800


async def pong_ms(client: RawClient) -> int:
    """Read on to the answer of the ping that has the id 1; return when the node answered it."""
    return int((await client.until("pong", id=1))[-1]["time"])


async def welcome_ms(client: RawClient) -> int:
    """Read the answer to a handshake; return when the node welcomed the client."""
    assert (await client.respond()).status == 101
    return int((await client.hear())["time"])


def light_messages(room: str) -> bytes:
    """Make a burst of many small messages."""
    return text(t="publish", room=room, data=1) * 2_000


def heavy_messages(room: str) -> bytes:
    """Make a burst of a few messages, each with nearly as many containers as one may have."""
    message = b'{"t":"publish","room":"%s","data":[%s[]]}' % (room.encode(), b"[]," * 4_000)
    return frame(TEXT, message) * 5


@pytest.mark.parametrize("burst", [light_messages, heavy_messages])
async def test_who_asks_once_is_answered_before_those_who_ask_much_at_once(
    node: Node, burst: Callable[[str], bytes]
) -> None:
    async with many(node.port, BURSTS) as attackers, speaking(node.port) as member:
        for attacker in attackers:
            await attacker.upgrade()
            await attacker.request(t="join", room=attacker.cid, id=0)
        node.freeze()
        for attacker in attackers:
            asked = burst(attacker.cid) + text(t="ping", id=1)
            assert attacker.send_some(asked) == len(asked)
        await member.say(t="ping", id=1)
        node.thaw()
        served_ms = await pong_ms(member)
        assert served_ms < max([await pong_ms(attacker) for attacker in attackers])


async def test_a_member_is_answered_before_a_storm_of_handshakes_is_done(tmp_path: Path) -> None:
    async with (
        Node(tmp_path, "--limits.pending_per_ip", "1024", "--limits.handshake_ms", "600000") as node,
        Bystander(node.port) as bystander,
        speaking(node.port) as member,
        many(node.port, STORM) as storm,
    ):
        await eventually(lambda: scrape(node), lambda page: value(page, "presence_pending_sockets") == STORM)
        node.freeze()
        for client in storm:
            assert client.send_some(request()) > 0
        await member.say(t="ping", id=1)
        node.thaw()
        served_ms = await pong_ms(member)
        assert served_ms < max([await welcome_ms(client) for client in storm])
        await bystander.keeps_service(3)
