"""Everything that a client may take its time with, and for how long: on a clock that is moved by hand."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import pytest

from presence_server.config.settings import PresenceSettings, Settings
from presence_server.edge.listener import CLOSING_MS, TRICKLE_MS
from tests.support.lab import Lab, laboratory
from tests.support.rawclient import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    EndedError,
    Ending,
    RawClient,
    frame,
    request,
    speaking,
    text,
)

if TYPE_CHECKING:
    from presence_server.auth.identity import Authenticator

pytestmark = pytest.mark.anyio

HANDSHAKE_MS = Settings().limits.handshake_ms
PING_MS = Settings().presence.ping_ms
TIMEOUT_MS = Settings().presence.ping_timeout_ms


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A node that pings seldom and expects no answer soon."""
    patient = PresenceSettings(ping_ms=3_600_000, ping_timeout_ms=3_600_000)
    async with laboratory(Settings(presence=patient), monkeypatch) as lab:
        yield lab


@pytest.fixture
async def pinging(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A node that pings as it does by default."""
    async with laboratory(Settings(), monkeypatch) as lab:
        yield lab


async def ended(lab: Lab, client: RawClient) -> Ending:
    """Read to the end of a connection whose client, in the middle of a frame, cannot answer."""
    await lab.wait(CLOSING_MS + 500)
    return await client.ending(answering=False)


async def abused(lab: Lab, client: RawClient) -> bool:
    ending = await ended(lab, client)
    return (ending.code, ending.bye is not None) == (4008, True)


async def pinged(lab: Lab, client: RawClient) -> None:
    """Let time pass until the next ping has come."""
    for _ in range(0, PING_MS + 1_000, 250):
        if lab.awaiting:
            assert (await client.frame()).opcode == PING
            return
        await lab.wait(250)
    raise AssertionError("no ping")


# --- the handshake ---


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /ws HTTP/1.1\r\n", request()[:-1]])
async def test_half_a_handshake_is_dropped_after_handshake_ms(lab: Lab, sent: bytes) -> None:
    async with RawClient(lab.port) as client:
        await client.send(sent)
        await lab.wait(HANDSHAKE_MS - 250)
        assert lab.connections == 1
        await lab.wait(500)
        assert lab.connections == 0
        with pytest.raises(EndedError):
            await client.receive()


class Undecided:
    """Something that is asked and never answers."""

    def identify(self, *asked: object) -> None:
        """Keep everybody waiting."""


async def test_a_handshake_that_is_never_decided_is_dropped_after_handshake_ms(lab: Lab) -> None:
    lab.node.listener.authenticator = cast("Authenticator", Undecided())
    async with RawClient(lab.port) as client:
        await client.send(request())
        await lab.wait(HANDSHAKE_MS - 250)
        assert lab.connections == 1
        await lab.wait(500)
        await lab.gone()


async def test_a_handshake_a_byte_a_second_is_no_longer_than_any_other(lab: Lab) -> None:
    async with RawClient(lab.port) as client:
        for byte in request()[: HANDSHAKE_MS // 1_000]:
            assert lab.connections <= 1
            await client.send(bytes([byte]))
            await lab.wait(1_000)
        await lab.wait(250)
        assert lab.connections == 0


async def test_a_client_that_has_its_page_and_does_not_go_is_dropped(lab: Lab) -> None:
    async with RawClient(lab.port) as client:
        assert (await client.ask("/healthz", base={})).status == 200
        await lab.wait(CLOSING_MS - 250)
        assert lab.connections == 1
        await client.send(b"x")
        await lab.wait(500)
        assert lab.connections == 0


async def test_an_open_connection_has_all_the_time(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        await lab.wait(60_000)
        assert (await client.request(t="ping", id=1))["id"] == 1
        await client.close()


# --- a message ---


async def test_a_message_a_byte_a_second_is_abuse_after_30_seconds(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        for byte in frame(TEXT, b"x" * 100)[: TRICKLE_MS // 1_000]:
            assert len(lab.node.core.directory) == 1
            await client.send(bytes([byte]))
            await lab.wait(1_000)
        await lab.wait(250)
        assert len(lab.node.core.directory) == 0
        assert await abused(lab, client)


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "one byte"])
async def test_fragments_for_ever_are_abuse_after_30_seconds(lab: Lab, piece: bytes) -> None:
    async with speaking(lab.port) as client:
        await client.send(frame(TEXT, b"{", fin=False))
        for _ in range(TRICKLE_MS // 1_000):
            assert len(lab.node.core.directory) == 1
            await lab.wait(1_000)
            await client.send(frame(CONT, piece, fin=False) + frame(PONG))
        await lab.wait(1_250)
        assert len(lab.node.core.directory) == 0
        assert await abused(lab, client)


async def test_a_message_that_is_begun_and_left_is_abuse_after_30_seconds(lab: Lab) -> None:
    for begun in (frame(TEXT, b"x" * 10)[:-1], frame(TEXT, b"{", fin=False)):
        async with speaking(lab.port) as client:
            await client.send(begun)
            await lab.wait(TRICKLE_MS - 250)
            assert len(lab.node.core.directory) == 1
            await lab.wait(500)
            assert len(lab.node.core.directory) == 0
            assert await abused(lab, client)


async def test_a_message_that_came_in_pieces_is_done_with(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        whole = text(t="ping", id=1)
        fragments = (frame(TEXT, b'{"t":"ping",', fin=False), frame(CONT, b'"id":1}'))
        for pieces in ((whole[:5], whole[5:]), fragments, (*fragments, whole[:9], whole[9:])):
            for piece in pieces:
                await client.send(piece)
                await lab.settle()
            await client.until("pong")
        await client.send(fragments[0])
        await lab.settle()
        await client.send(fragments[1])
        await lab.wait(TRICKLE_MS + 500)
        assert len(lab.node.core.directory) == 1
        await client.close()


# --- floods ---


@pytest.mark.parametrize("idle", [frame(PING), frame(PONG), frame(PING, b"x" * 125)], ids="abc")
async def test_a_flood_of_control_frames_is_abuse(lab: Lab, idle: bytes) -> None:
    async with speaking(lab.port) as client:
        await client.send(idle * 100)
        await lab.settle()
        assert len(lab.node.core.directory) == 1
        await client.send(idle)
        assert await abused(lab, client)


async def test_a_flood_of_empty_fragments_is_abuse(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        await client.send(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 200)
        assert await abused(lab, client)


async def test_control_frames_at_leisure_are_not(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        for _ in range(20):
            await client.send(frame(PING) * 90)
            await lab.wait(5_250)
        assert len(lab.node.core.directory) == 1
        await client.close()


async def test_twenty_bad_messages_in_five_seconds_are_abuse(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        await client.send(frame(TEXT, b"{") * 19)
        await lab.settle()
        assert len(lab.node.core.directory) == 1
        await client.send(frame(TEXT, b"{"))
        ending = await client.ending()
        assert [message["t"] for message in ending.messages] == ["error"] * 20 + ["bye"]
        assert ending.code == 4008


async def test_bad_messages_at_leisure_are_only_refused(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        for _ in range(10):
            await client.send(frame(TEXT, b"{") * 19)
            await lab.wait(5_250)
        assert len(lab.node.core.directory) == 1
        await client.close()


async def test_what_is_refused_for_other_reasons_is_no_strike(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        await client.send(text(t="leave", room="elsewhere") * 100)
        await client.request(t="ping", id=1)
        await client.close()


# --- signs of life ---


async def silent(client: RawClient) -> None:
    """Send nothing."""


async def pongs(client: RawClient) -> None:
    await client.send(frame(PONG))


async def talks(client: RawClient) -> None:
    await client.say(t="ping")


async def trickles(client: RawClient) -> None:
    await client.send(frame(TEXT, b"x")[:3])


async def test_a_client_that_is_silent_after_a_ping_is_closed(pinging: Lab) -> None:
    async with speaking(pinging.port) as client:
        await pinged(pinging, client)
        await pinging.wait(TIMEOUT_MS - 500)
        assert len(pinging.node.core.directory) == 1
        await pinging.wait(1_000)
        assert len(pinging.node.core.directory) == 0
        ending = await client.ending()
        assert (ending.code, ending.bye is not None) == (4201, True)


@pytest.mark.parametrize(
    "sign", [frame(PONG), frame(PONG, b"x"), text(t="ping"), frame(TEXT, b"x")[:3]], ids="abcd"
)
async def test_anything_at_all_is_a_sign_of_life(pinging: Lab, sign: bytes) -> None:
    async with speaking(pinging.port) as client:
        await pinged(pinging, client)
        await client.send(sign)
        await pinging.wait(TIMEOUT_MS + 500)
        assert len(pinging.node.core.directory) == 1
        client.reset()


async def test_a_client_that_only_answers_pings_stays_for_ever(pinging: Lab) -> None:
    async with speaking(pinging.port) as client:
        for _ in range(10):
            await pinged(pinging, client)
            await client.send(frame(PONG))
            await pinging.wait(TIMEOUT_MS // 2)
        assert len(pinging.node.core.directory) == 1
        await client.close()


# --- the end ---


async def test_a_client_that_does_not_answer_a_close_frame_is_dropped(lab: Lab) -> None:
    async with speaking(lab.port) as client:
        await client.send(frame(BINARY, b"x"))
        await lab.wait(CLOSING_MS - 250)
        assert (lab.connections, len(lab.node.core.directory)) == (1, 0)
        await client.send(text(t="ping"))
        await lab.wait(500)
        assert lab.connections == 0
