"""A connection's signs of life, and its end."""

import gc
import struct

import pytest

from presence_server.edge.connection import SPENT_BYTES_MAX, Connection
from presence_server.edge.listener import CLOSING_MS
from presence_server.protocol import codes
from presence_server.session.claims import Probe
from tests.support.door import Door, Socket, Transport, settle
from tests.support.rawclient import BINARY, CLOSE, PING, PONG, TEXT, frame, request, text

pytestmark = pytest.mark.anyio

CLOSING = frame(CLOSE, struct.pack("!H", 1000))


# --- signs of life ---


def awaited_since(socket: Socket) -> int | None:
    return socket.connection.unanswered_since_ms


async def test_the_first_ping_that_nothing_has_come_after_is_awaited(door: Door) -> None:
    ann = await door.enter()
    assert ann.connection.ping(1_000)
    assert not ann.connection.ping(2_000)
    assert awaited_since(ann) == 1_000
    assert [each.opcode for each in await ann.hear()] == [PING, PING]
    ann.send(frame(PONG))
    assert awaited_since(ann) is None
    assert ann.connection.ping(3_000)


async def test_silence_after_a_ping_ends_a_connection_and_any_sign_keeps_it(door: Door) -> None:
    ann = await door.enter()
    ann.connection.close_unless_alive()
    assert await ann.hear() == []
    ann.connection.ping(1_000)
    ann.send(frame(PONG))
    await ann.hear()
    ann.connection.close_unless_alive()
    assert await ann.hear() == []
    ann.connection.ping(2_000)
    await ann.hear()
    ann.connection.close_unless_alive()
    assert await ann.close_code() == codes.NO_PONG.code


async def test_who_is_not_read_from_is_neither_pinged_nor_judged(door: Door) -> None:
    ann = await door.enter()
    ann.connection.ping(1_000)
    ann.stall()
    await ann.hear()
    assert not ann.connection.ping(2_000)
    ann.connection.close_unless_alive()
    ann.connection.close_trickling()
    assert await ann.hear() == []
    ann.read_on()
    ann.connection.close_unless_alive()
    assert await ann.close_code() in (None, codes.NO_PONG.code)


async def test_a_socket_that_is_no_client_yet_is_not_pinged(door: Door) -> None:
    socket = door.accept()
    socket.connection.probe()
    assert not socket.connection.ping(1_000)
    assert socket.transport.take() == b""


async def test_only_the_pong_of_a_probe_answers_it(door: Door) -> None:
    ann = await door.enter()
    session = door.core.directory._sessions[ann.connection.cid]
    probes = [session.probe]
    session.send_probe()
    (ping,) = await ann.hear()
    assert ping.opcode == PING
    ann.send(frame(PONG) + text(t="ping", id=1))
    await ann.hear()
    probes.append(session.probe)
    ann.send(frame(PONG, ping.payload))
    await settle()
    assert [*probes, session.probe] == [Probe.UNSENT, Probe.SENT, Probe.ANSWERED]


# --- ending ---


def has_ended(socket: Socket) -> bool:
    """Tell whether the server has said that nothing more comes."""
    return socket.transport.ended


async def test_the_server_closes_with_a_bye_and_a_close_frame(door: Door) -> None:
    ann = await door.enter()
    ann.connection.close(codes.DRAINING, reconnect_ms=250)
    bye, close = await ann.hear()
    assert (bye.fields["t"], bye.fields["code"], bye.fields["reconnect_ms"]) == (
        "bye",
        codes.DRAINING.code,
        250,
    )
    assert (close.opcode, close.code) == (CLOSE, codes.DRAINING.code)
    assert door.listener.closes[codes.label(codes.DRAINING.code)] == 1
    assert not has_ended(ann)
    ann.connection.close(codes.DRAINING)
    assert await ann.hear() == []
    ann.send(frame(CLOSE, close.payload))
    assert has_ended(ann)
    ann.lose()
    assert door.listener.sockets == 0


async def test_a_client_that_closes_has_its_frame_back_and_nothing_else(door: Door) -> None:
    ann = await door.enter()
    ann.send(CLOSING + text(t="ping", id=1) + frame(PING))
    (close,) = await ann.hear()
    assert (close.opcode, close.code) == (CLOSE, 1000)
    assert ann.transport.ended
    assert door.listener.closes["1000"] == 1
    assert len(door.core.directory) == 0


async def test_what_came_before_a_close_frame_is_done_first(door: Door) -> None:
    ann = await door.enter()
    ann.send(b"".join(text(t="ping", id=n) for n in range(1, 101)) + CLOSING)
    heard = await ann.hear()
    assert [each.fields["id"] for each in heard[:-1]] == list(range(1, 101))
    assert (heard[-1].opcode, heard[-1].code) == (CLOSE, 1000)


async def test_nothing_is_said_after_a_close_frame(door: Door) -> None:
    ann = await door.enter()
    ann.connection.close(codes.DRAINING)
    await ann.hear()
    ann.send(frame(PING, b"still there?") + text(t="ping", id=1))
    assert await ann.hear() == []


async def test_of_what_follows_a_close_frame_only_so_much_is_read(door: Door) -> None:
    ann = await door.enter()
    ann.connection.close(codes.DRAINING)
    await ann.hear()
    sent = 0
    while sent + 1_006 <= SPENT_BYTES_MAX - 6:
        ann.send(frame(BINARY, b"x" * 998))
        sent += 1_006
    ann.send(frame(BINARY, b"x" * (SPENT_BYTES_MAX - sent - 8 - len(CLOSING))))
    await settle()
    assert not has_ended(ann)
    ann.send(CLOSING)
    await settle()
    assert has_ended(ann)
    assert ann.transport.is_reading()
    ann.send(b"x")
    await settle()
    assert not ann.transport.is_reading()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_member_that_closes_goes_sooner_than_one_that_is_lost(door: Door, how: str) -> None:
    ann, bob = await door.enter("ann"), await door.enter("bob")
    for client in (ann, bob):
        client.say(t="join", room="lobby", id=1)
    await settle()
    await bob.hear()
    if how == "close":
        ann.send(CLOSING)
    ann.lose()
    presence = door.core.settings.presence
    grace_ms = presence.grace_clean_ms if how == "close" else presence.grace_lost_ms
    for passed_ms, left in ((grace_ms - 1, []), (2, ["closed" if how == "close" else "timeout"])):
        door.clock.move(passed_ms)
        door.core.sweep_node(door.clock.now_ms())
        heard = await bob.messages()
        assert [leave["reason"] for message in heard for leave in message.get("leaves", ())] == left


async def test_a_client_has_a_while_to_end_its_side_after_the_server_has(door: Door) -> None:
    ann = await door.enter()
    ann.send(CLOSING)
    await ann.hear()
    door.clock.move(CLOSING_MS - 1)
    door.listener.sweep_timeouts(door.clock.now_ms())
    assert not ann.transport.is_closing()
    door.clock.move(1)
    door.listener.sweep_timeouts(door.clock.now_ms())
    assert ann.transport.aborted


async def test_a_socket_that_cannot_be_closed_by_half_is_closed(door: Door) -> None:
    ann = await door.enter(transport=Transport(half_close=False))
    ann.send(CLOSING)
    assert [each.opcode for each in await ann.hear()] == [CLOSE]
    assert ann.transport.closed


async def test_a_socket_that_is_lost_takes_its_client_with_it(door: Door) -> None:
    ann = await door.enter()
    ann.say(t="join", room="lobby", id=1)
    await ann.hear()
    ann.lose()
    await settle()
    assert len(door.core.directory) == 0
    assert door.listener.sockets == 0
    assert door.listener.closes["1006"] == 1
    ann.connection.write(b"nobody reads this")
    assert ann.transport.written == b""


async def test_what_was_gathered_is_written_before_a_connection_ends(door: Door) -> None:
    ann = await door.enter()
    ann.say(t="ping", id=1)
    ann.connection.close(codes.DRAINING)
    assert [each.opcode for each in await ann.hear()] == [TEXT, TEXT, CLOSE]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /ws HTTP/1.1\r\nHost:",
        b"\x16\x03\x01 hello\r\n\r\n",
        request("/no-such-page"),
        request("/ws?user=ann", {"Upgrade": None}),
        request("/ws?user=ann"),
        request("/ws?user=ann") + text(t="ping", id=1)[:-3],
        request("/ws?user=ann") + CLOSING,
    ],
)
async def test_a_connection_that_is_gone_is_freed_without_a_collection(door: Door, sent: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        ann = door.accept()
        if sent:
            ann.send(sent)
        await settle()
        assert _connections() == 1
        ann.lose()
        await settle()
        del ann
        assert _connections() == 0
    finally:
        gc.enable()


def _connections() -> int:
    return sum(type(each) is Connection for each in gc.get_objects())


async def test_a_dropped_socket_is_aborted_and_its_client_is_lost(door: Door) -> None:
    ann = await door.enter()
    ann.connection.abort()
    assert ann.transport.aborted
    assert len(door.core.directory) == 0
    assert door.listener.closes["1006"] == 1


async def test_the_end_of_what_a_client_sends_ends_its_connection(door: Door) -> None:
    ann = await door.enter()
    ann.say(t="ping", id=1)
    ann.connection.eof_received()
    ann.lose()
    await settle()
    assert len(door.core.directory) == 0
