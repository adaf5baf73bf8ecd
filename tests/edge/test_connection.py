"""One connection, from its first byte to its last: what is read, held, written and counted."""

import gc
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from presence_server.config.settings import LimitsSettings, ProxySettings, ThrottleSettings
from presence_server.edge.assembly import CONTROL_FRAMES_MAX, FRAGMENTS_MAX
from presence_server.edge.connection import SPENT_BYTES_MAX, Connection
from presence_server.edge.listener import CLOSING_MS
from presence_server.edge.reading import SLICE_BYTES
from presence_server.edge.request_parser import HEAD_BYTES_MAX
from presence_server.edge.turns import Queue
from presence_server.edge.upgrade_request import LIST_ITEMS_MAX
from presence_server.protocol import codes
from presence_server.session.claims import Probe
from tests.support.door import Door, Socket, Transport, frames_in, settle
from tests.support.rawclient import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, request, text
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LIMITS = LimitsSettings(outbox_soft_bytes=4_096, outbox_hard_bytes=65_536)
CLOSING = frame(CLOSE, struct.pack("!H", 1000))


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with Door(limits=LIMITS) as door:
        yield door


def status(transport: Transport) -> int:
    return int(transport.take().split(b" ", 2)[1])


# --- the handshake ---


async def test_a_client_is_welcomed_and_counted(door: Door) -> None:
    asked = request("/ws?user=ann")
    ann = door.accept()
    assert ann.connection in door.listener.pending
    ann.send(asked)
    await settle()
    written = ann.transport.take()
    assert door.listener.handshakes[101] == 1
    assert sum(door.listener.handshake_seconds.counts) == 1
    assert ann.connection not in door.listener.pending
    assert ann.connection.ping_slot is not None
    assert ann.transport.is_reading()
    assert len(door.core.directory) == 1
    assert door.listener.bytes_in == len(asked)
    assert door.listener.bytes_out == len(written)


async def test_a_request_may_come_in_pieces_of_any_size(door: Door) -> None:
    for size in (1, 7, 64):
        ann = door.accept()
        asked = request("/ws?user=ann")
        for start in range(0, len(asked), size):
            assert ann.transport.written == b""
            ann.send(asked[start : start + size])
        await settle()
        assert ann.transport.written.startswith(b"HTTP/1.1 101 ")
        ann.lose()


async def test_what_comes_right_behind_a_request_is_handled_after_the_welcome(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/ws?user=ann") + text(t="ping", id=1) + text(t="ping", id=2)[:4])
    ann.send(text(t="ping", id=3))
    await settle()
    _, _, rest = ann.transport.take().partition(b"\r\n\r\n")
    heard = [each.fields for each in frames_in(rest) if each.opcode == TEXT]
    assert [(message["t"], message.get("id")) for message in heard[:2]] == [("welcome", None), ("pong", 1)]


@pytest.mark.parametrize("over", [0, 1])
async def test_a_request_is_no_longer_than_it_may_be(door: Door, over: int) -> None:
    plain = request("/ws?user=ann", {"X-Pad": ""})
    room = HEAD_BYTES_MAX - len(plain) + over
    pads = {f"X-Pad{n}": "x" * 4_000 for n in range(3)}
    room -= len(request("/ws?user=ann", {"X-Pad": "", **pads})) - len(plain)
    asked = request("/ws?user=ann", {"X-Pad": "x" * room, **pads})
    assert len(asked) == HEAD_BYTES_MAX + over
    ann = door.accept()
    ann.send(asked)
    await settle()
    assert status(ann.transport) == (431 if over else 101)
    assert door.listener.handshakes[431] == over
    if over:
        assert ann.transport.ended
        assert ann.transport.is_reading()  # or its end would not be noticed
        ann.send(request("/ws?user=ann"))
        await settle()
        assert ann.transport.written == b""


async def test_what_is_no_request_is_refused(door: Door) -> None:
    ann = door.accept()
    ann.send(b"\x16\x03\x01 hello\r\n\r\n")
    await settle()
    assert status(ann.transport) == 400
    assert ann.transport.ended


async def test_another_path_is_answered_with_a_page_and_is_no_handshake(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/no-such-page", base={"Host": "presence.test"}))
    await settle()
    assert status(ann.transport) == 404
    assert not door.listener.handshakes[101]


async def test_a_handshake_that_is_refused_is_counted_by_its_status(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/ws?user=ann", {"Upgrade": None}))
    await settle()
    written = ann.transport.take()
    assert written.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: websocket\r\n" in written
    assert door.listener.handshakes[426] == 1
    assert len(door.core.directory) == 0


async def test_a_client_that_goes_during_its_handshake_leaves_nothing(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/ws?user=ann"))
    ann.lose()
    await settle()
    assert len(door.core.directory) == 0
    assert door.listener.sockets == 0


async def test_each_connection_gives_back_its_place_among_those_of_its_address() -> None:
    async with Door(throttle=ThrottleSettings(connect="", messages="", concurrent_per_ip=1)) as door:
        for _ in range(3):
            ann = await door.enter()
            second = door.accept()
            second.send(request("/ws?user=bob"))
            await settle()
            assert status(second.transport) == 429
            second.lose()
            ann.lose()
            await settle()


async def test_a_client_that_was_answered_has_no_handshake_to_be_late_with() -> None:
    limits = LimitsSettings(handshake_ms=CLOSING_MS // 2)
    async with Door(limits=limits) as door:
        answered = [await door.enter(), door.accept(), door.accept()]
        answered[1].send(request("/no-such-page", base={"Host": "presence.test"}))
        answered[2].send(request("/ws", {f"X-Pad{n}": "x" * 4_000 for n in range(5)}))
        silent = door.accept()
        await settle()
        for passed_ms, aborted in ((limits.handshake_ms - 1, False), (1, True)):
            door.clock.move(passed_ms)
            door.listener.sweep_timeouts(door.clock.now_ms())
            assert silent.transport.aborted is aborted
        assert [socket.transport.aborted for socket in answered] == [False] * 3


async def test_what_comes_right_behind_the_request_of_a_page_does_no_harm(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/no-such-page", base={"Host": "presence.test"}) + b"more")
    await settle()
    assert (status(ann.transport), ann.transport.aborted) == (404, False)


async def test_a_header_that_lists_too_much_is_refused_before_it_is_parsed(door: Door) -> None:
    ann = door.accept()
    ann.send(request("/ws?user=ann", {"Sec-WebSocket-Protocol": ",".join(["a"] * (LIST_ITEMS_MAX + 1))}))
    await settle()
    assert b"has more than" in ann.transport.take()
    assert door.listener.handshakes[400] == 1


async def test_a_browser_that_may_not_come_in_is_told_by_a_close_code() -> None:
    throttle = ThrottleSettings(connect="", messages="", concurrent_per_ip=1, deny="close")
    async with Door(throttle=throttle) as door:
        await door.enter()
        second = door.accept()
        second.send(request("/ws?user=bob"))
        await settle()
        head, _, rest = second.transport.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        bye, close = frames_in(rest)
        assert (bye.fields["t"], bye.fields["code"], close.code) == ("bye", 4101, 4101)
        assert door.listener.handshakes[429] == 1
        assert len(door.core.directory) == 1
        assert second.transport.is_reading()
        second.say(t="ping", id=1)
        assert await second.hear() == []
        second.send(frame(CLOSE, close.payload))
        assert second.transport.ended


async def test_a_newcomer_waits_behind_members_and_members_do_not_wait_for_it(door: Door) -> None:
    ann, newcomer = await door.enter(), door.accept()
    done: list[str] = []
    door.turns.queue_work(Queue.BUSY, "", lambda: done.append("somebody's long work"))
    newcomer.send(request("/ws?user=bob")[:-1])
    ann.say(t="ping", id=1)
    assert (newcomer.transport.is_reading(), ann.transport.is_reading()) == (False, True)
    assert newcomer.connection not in door.listener.pending  # it waits for the node, not the node for it
    assert [message["t"] for message in await ann.messages()] == ["pong"]
    assert done
    assert newcomer.transport.is_reading()
    assert newcomer.connection in door.listener.pending
    newcomer.send(b"\n")
    await settle()
    assert status(newcomer.transport) == 101


# --- reading ---


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


# --- proxies ---

V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 80\r\n"


@pytest.fixture
async def proxied() -> AsyncIterator[Door]:
    async with Door(proxy=ProxySettings(trusted=["192.0.2.7"], protocol=True)) as door:
        yield door


async def test_a_trusted_proxy_says_who_its_client_is_in_pieces_of_any_size(proxied: Door) -> None:
    ann = proxied.accept()
    for byte in V1:
        ann.send(bytes([byte]))
    ann.send(request("/ws?user=ann"))
    await settle()
    assert status(ann.transport) == 101
    assert ann.connection.key == proxied.gate.addresses.key(ann.connection.address)
    assert str(ann.connection.address) == "203.0.113.9"


async def test_a_trusted_proxy_that_says_nothing_of_its_client_is_dropped(proxied: Door) -> None:
    ann = proxied.accept()
    ann.send(request("/ws?user=ann"))
    await settle()
    assert ann.transport.aborted
    assert ann.transport.written == b""


async def test_what_a_stranger_says_of_itself_is_no_request(proxied: Door) -> None:
    ann = proxied.accept(Transport("198.51.100.3"))
    ann.send(V1 + request("/ws?user=ann"))
    await settle()
    assert status(ann.transport) == 400
