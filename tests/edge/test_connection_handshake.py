"""A connection up to its welcome: requests, refusals, and what a proxy says of its client."""

from collections.abc import AsyncIterator

import pytest

from presence_server.config.settings import LimitsSettings, ProxySettings, ThrottleSettings
from presence_server.edge.listener import CLOSING_MS
from presence_server.edge.request_parser import HEAD_BYTES_MAX
from presence_server.edge.turns import Queue
from presence_server.edge.upgrade_request import LIST_ITEMS_MAX
from tests.support.door import Door, Transport, frames_in, settle, status
from tests.support.rawclient import CLOSE, TEXT, frame, request, text

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("item", ["a", ""])
async def test_a_header_that_lists_too_much_is_refused_before_it_is_parsed(door: Door, item: str) -> None:
    ann = door.accept()
    ann.send(request("/ws?user=ann", {"Sec-WebSocket-Protocol": ",".join([item] * (LIST_ITEMS_MAX + 1))}))
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


async def test_the_place_of_a_connection_that_is_gone_before_it_has_one_is_given_back(door: Door) -> None:
    ann, gate = door.accept(), door.listener.gate
    gate.leases.acquire_lease("192.0.2.1", lambda _: None)
    held = len(gate.leases)
    ann.lose()
    assert not ann.connection.hold_lease("192.0.2.1")
    assert len(gate.leases) == held - 1
