"""What a connection reads: in which pieces, up to which bounds, and what of a client that does not read."""

import struct
from typing import Any

import pytest

from presence_server.edge.assembly import CONTROL_FRAMES_MAX, FRAGMENTS_MAX
from presence_server.edge.reading import SLICE_BYTES
from presence_server.protocol import codes
from tests.support.door import Door, settle
from tests.support.rawclient import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, text
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

CLOSING = frame(CLOSE, struct.pack("!H", 1000))


async def test_messages_of_one_read_are_answered_in_order_however_many(door: Door) -> None:
    ann = await door.enter()
    ann.send(b"".join(text(t="ping", id=n) for n in range(1, 201)))
    assert [message["id"] for message in await ann.messages()] == list(range(1, 201))
    assert ann.transport.is_reading()


async def test_a_message_may_come_byte_by_byte(door: Door) -> None:
    ann = await door.enter()
    for number in range(3):
        for byte in text(t="ping", id=number):
            ann.send(bytes([byte]))
    assert [message["id"] for message in await ann.messages()] == [0, 1, 2]
    assert ann.connection not in door.listener.trickling


async def test_a_message_that_has_begun_has_its_time(door: Door) -> None:
    ann = await door.enter()
    ann.send(text(t="ping", id=1)[:5])
    assert ann.connection in door.listener.trickling
    ann.connection.close_trickling()
    assert await ann.close_code() == codes.ABUSE.code
    assert ann.connection not in door.listener.trickling


async def test_a_long_message_that_has_begun_has_its_time_too(door: Door) -> None:
    ann = await door.enter()
    long = text(t="ping", id="x" * 3 * SLICE_BYTES)
    ann.send(long[:-1])
    await settle()
    assert ann.connection in door.listener.trickling
    ann.send(long[-1:])
    await settle()
    assert ann.connection not in door.listener.trickling


async def test_the_close_frame_of_a_client_that_was_closed_is_found_behind_much_else(door: Door) -> None:
    ann = await door.enter()
    ann.send(frame(BINARY, b"{}") + frame(PING) * 4_000 + CLOSING)
    heard = await ann.hear()
    assert heard[-1].code == codes.UNSUPPORTED.code
    assert ann.transport.ended


async def test_a_message_in_fragments_has_its_time_until_the_last(door: Door) -> None:
    ann = await door.enter()
    whole = b'{"t":"ping","id":1}'
    ann.send(frame(TEXT, whole[:5], fin=False))
    await until(lambda: ann.connection in door.listener.trickling)
    ann.send(frame(CONT, whole[5:9], fin=False))
    assert ann.connection in door.listener.trickling
    ann.send(frame(CONT, whole[9:]))
    assert [message["t"] for message in await ann.messages()] == ["pong"]
    assert ann.connection not in door.listener.trickling


async def test_an_empty_last_fragment_ends_a_message(door: Door) -> None:
    ann = await door.enter()
    ann.send(frame(TEXT, b'{"t":"ping","id":1}', fin=False) + frame(CONT, b"", fin=False) + frame(CONT))
    assert [message["t"] for message in await ann.messages()] == ["pong"]


@pytest.mark.parametrize("fragments", [FRAGMENTS_MAX, FRAGMENTS_MAX + 1])
async def test_a_message_comes_in_no_more_fragments_than_it_may(door: Door, fragments: int) -> None:
    ann = await door.enter()
    whole = b'{"t":"ping","id":1}'
    ann.send(frame(TEXT, whole, fin=False))
    for _ in range(fragments - 2):
        ann.send(frame(CONT, b" ", fin=False))
    ann.send(frame(CONT, b" "))
    heard = await ann.hear()
    if fragments > FRAGMENTS_MAX:
        assert heard[-1].code == codes.ABUSE.code
    else:
        assert [each.fields["t"] for each in heard] == ["pong"]


@pytest.mark.parametrize(
    "idle", [frame(PING), frame(PONG), frame(CONT, fin=False)], ids=["ping", "pong", "empty"]
)
@pytest.mark.parametrize("over", [0, 1])
async def test_frames_that_bring_nothing_are_borne_up_to_a_number(door: Door, idle: bytes, over: int) -> None:
    ann = await door.enter()
    if idle[0] & 0x0F == CONT:
        ann.send(frame(TEXT, b'{"t":"pi', fin=False))
    for _ in range(CONTROL_FRAMES_MAX + over):
        ann.send(idle)
    heard = await ann.hear()
    closes = [each.code for each in heard if each.opcode == CLOSE]
    assert closes == ([codes.ABUSE.code] if over else [])


async def test_pings_are_answered_with_what_they_bring(door: Door) -> None:
    ann = await door.enter()
    ann.send(frame(PING, b"hello"))
    assert [(each.opcode, each.payload) for each in await ann.hear()] == [(PONG, b"hello")]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(BINARY, b"{}"), codes.UNSUPPORTED),
        (frame(TEXT, b"\xff"), codes.INVALID_DATA),
        (frame(TEXT, b"{}", masked=False), codes.PROTOCOL_ERROR),
        (frame(TEXT, b"{}", rsv=4), codes.PROTOCOL_ERROR),
    ],
    ids=["binary", "not UTF-8", "not masked", "a reserved bit"],  # masks differ between processes
)
async def test_what_breaks_the_rules_is_closed_with_its_code(door: Door, bad: bytes, code: Any) -> None:
    ann = await door.enter()
    ann.send(bad)
    heard = await ann.hear()
    assert [(each.opcode, each.code) for each in heard[-1:]] == [(CLOSE, code.code)]
    bye = heard[-2].fields
    assert (bye["t"], bye["code"]) == ("bye", code.code)
    assert door.listener.closes[codes.label(code.code)] == 1
    assert len(door.core.directory) == 0


async def test_an_unreadable_message_is_answered_and_the_connection_goes_on(door: Door) -> None:
    ann = await door.enter()
    ann.send(frame(TEXT, b"{") + text(t="ping", id=1))
    assert [message["t"] for message in await ann.messages()] == ["error", "pong"]


async def test_a_fault_ends_its_connection_and_no_other(door: Door) -> None:
    items_max = door.listener.message_items
    door.listener.message_items = None  # type: ignore[assignment]  # a defect
    ann = await door.enter("ann")
    door.listener.message_items = items_max
    bob = await door.enter("bob")
    ann.say(t="ping", id=1)
    assert ann.transport.aborted
    bob.say(t="ping", id=1)
    assert [message["t"] for message in await bob.messages()] == ["pong"]
    assert len(door.core.directory) == 1


# --- a client that does not read ---


async def test_a_client_that_does_not_read_is_not_read_from(door: Door) -> None:
    ann = await door.enter()
    ann.stall()
    assert ann.connection.congested is True
    assert not ann.transport.is_reading()
    ann.say(t="ping", id=1)
    assert await ann.messages() == []
    ann.read_on()
    assert [message["id"] for message in await ann.messages()] == [1]
    assert ann.transport.is_reading()
    assert not ann.connection.congested


async def test_a_client_that_asks_for_more_than_may_wait_is_heard_bit_by_bit(door: Door) -> None:
    ann = await door.enter()
    ann.say(t="join", room="lobby", state={"pad": "x" * 1_500}, id=1)
    await ann.hear()
    ann.send(b"".join(text(t="members", room="lobby", id=n) for n in range(2, 12)))
    assert not ann.transport.is_reading()
    assert [message["id"] for message in await ann.messages()] == list(range(2, 12))
    assert ann.transport.is_reading()


async def test_what_waits_for_the_socket_is_what_the_transport_keeps(door: Door) -> None:
    ann = await door.enter()
    ann.transport.waiting = 123
    assert ann.connection.unsent_bytes == 123
    ann.lose()
    assert ann.connection.unsent_bytes == 0


async def test_much_at_once_is_cut_into_slices_and_handled_all_the_same(door: Door) -> None:
    ann = await door.enter()
    data = b"".join(text(t="ping", id=n) for n in range(1, 150))
    assert len(data) > 3 * SLICE_BYTES
    ann.send(data[: 2 * SLICE_BYTES + 1])
    ann.send(data[2 * SLICE_BYTES + 1 :])
    assert [message["id"] for message in await ann.messages()] == list(range(1, 150))
