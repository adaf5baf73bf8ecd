"""A client that does not read costs bounded memory, and has the right roster once it reads again."""

from collections.abc import Callable

import pytest

from presence_server.config.settings import LimitsSettings
from presence_server.presence.operations import Enter
from presence_server.protocol import codes
from presence_server.protocol.codec import JSON, MSGPACK, Codec, document
from presence_server.protocol.messages import (
    Bye,
    Diff,
    Join,
    Leave,
    Members,
    Page,
    Publish,
    Published,
    SendSignal,
    ServerMessage,
    Stale,
    Sync,
    Update,
    Watch,
)
from tests.support.recording import members_in
from tests.support.world import DAY_MS, Client, World

LIMITS = LimitsSettings(outbox_soft_bytes=1_000, outbox_hard_bytes=10_000, outbox_hard_ms=30_000)
ROOMS = ("lobby", "second", "third")


@pytest.fixture
def world() -> World:
    return World(limits=LIMITS)


def slow_and_quick(
    world: World, *rooms: str, codec: Codec = JSON, then: Callable[[], None] = lambda: None
) -> tuple[Client, Client]:
    """One who is behind in every room, and one who is not."""
    slow, quick = world.connect("slow", codec=codec), world.connect("quick")
    for room in rooms:
        slow.ask(Join(room))
        quick.ask(Join(room))
    slow.take()
    quick.take()
    slow.wire.stall()
    quick.send(Update(rooms[0], {"first": "fills the socket"}))
    world.settle()
    assert slow.outbox.behind
    then()
    return slow, quick


def caught_up(world: World, slow: Client) -> list[ServerMessage]:
    """Read on until nothing more comes; return all of it."""
    slow.wire.read_on()
    return slow.take()


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_who_is_behind_is_told_nothing_of_rosters_and_then_everything_in_one_sync(
    world: World, codec: Codec
) -> None:
    slow, quick = slow_and_quick(world, "lobby", codec=codec)
    unsent = slow.wire.unsent_bytes
    for n in range(1_000):
        quick.send(Update("lobby", {"n": n}))
        world.pass_ms(10)
    assert slow.wire.unsent_bytes == unsent
    first, sync = caught_up(world, slow)
    assert isinstance(first, Diff)
    assert isinstance(sync, Sync)
    assert not isinstance(sync.id, int)
    assert members_in(sync) == world.roster("lobby")
    quick.send(Update("lobby", {"n": "after"}))
    assert [type(message) for message in slow.take()] == [Diff]


def test_signals_are_dropped_for_who_is_behind(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    quick.send(SendSignal("lobby", "cursor", 1))
    world.settle()
    assert [type(message) for message in caught_up(world, slow)] == [Diff]


def test_messages_wait_and_come_in_order_after_the_sync(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    late = world.connect("late")
    late.send(Join("lobby"), Publish("lobby", data=0))
    for n in range(1, 20):
        quick.send(Publish("lobby", data=n), Update("lobby", {"n": n}))
        world.settle()
    _, sync, *messages = caught_up(world, slow)
    assert isinstance(sync, Sync)
    assert late.cid in members_in(sync)
    assert [m.data for m in messages if isinstance(m, Published)] == list(range(20))
    assert len(messages) == 20


def test_messages_alone_need_no_sync(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    quick.send(Publish("lobby", data=1))
    world.settle()
    quick.send(Publish("lobby", data=2))
    _, *rest = caught_up(world, slow)
    assert [m.data for m in rest if isinstance(m, Published)] == [1, 2]
    assert len(rest) == 2


def test_what_comes_while_a_sync_is_owed_comes_after_it(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    quick.send(Update("lobby", {"x": 1}), Publish("lobby", data="held"))
    world.settle()
    slow.wire.read_on()
    quick.send(Publish("lobby", data="new"), Update("lobby", {"x": 2}))
    told = slow.take()
    assert [m.data for m in told if isinstance(m, Published)] == ["held", "new"]
    roster = {}
    for message in told:
        if isinstance(message, Sync):
            roster = members_in(message)
        elif isinstance(message, Diff) and roster:
            for update in message.updates:
                assert update.v >= roster[update.cid].v
    assert any(isinstance(message, Sync) for message in told)


def test_one_room_is_told_each_tick(world: World) -> None:
    slow, quick = slow_and_quick(world, *ROOMS)
    for room in ROOMS:
        quick.send(Update(room, {"x": 1}))
    world.settle()
    for room in ROOMS:
        quick.send(Update(room, {"x": 2}))
    world.settle()
    slow.wire.read_on()
    slow.wire.take()
    told = []
    for _ in range(6):
        world.tick()
        told.append([message.room for message in slow.wire.take() if isinstance(message, Sync)])
    assert all(len(rooms) <= 1 for rooms in told)
    assert sorted(room for rooms in told for room in rooms) == sorted(ROOMS)


def test_who_falls_behind_again_while_catching_up_gets_the_rest_later(world: World) -> None:
    slow, quick = slow_and_quick(world, *ROOMS)
    for n in range(3):
        for room in ROOMS:
            quick.send(Update(room, {"n": n}), Publish(room, data=n))
        world.settle()
    rosters: dict[str, object] = {}
    data: dict[str, list[int]] = {room: [] for room in ROOMS}
    for _ in range(2 * len(ROOMS) + 2):
        slow.wire.read_on()
        slow.wire.stall()
        world.settle()
        for message in slow.wire.take():
            if isinstance(message, Sync):
                rosters[message.room] = members_in(message)
            elif isinstance(message, Published):
                assert message.room is not None
                data[message.room].append(message.data)
    assert rosters == {room: world.roster(room) for room in ROOMS}
    assert all(told == [0, 1, 2] for told in data.values())


def test_too_much_that_waits_closes_the_connection(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    for _ in range(LIMITS.outbox_hard_bytes // 1_000 + 1):
        quick.send(Publish("lobby", data="x" * 1_000))
        world.settle()
    assert slow.closed_with == codes.TOO_SLOW.code
    assert quick.is_open


def test_what_waits_is_counted_until_it_is_handed_over(world: World) -> None:
    slow, quick = slow_and_quick(world, *ROOMS)
    for room in ROOMS:
        quick.send(Update(room, {"x": 1}))
    world.settle()
    held = 0
    for _ in range(10):
        for _ in range(8):
            quick.send(Publish("third", data="x" * 1_000))
            world.settle()
        waiting = [each.watcher.held or [] for each in slow.session.participant.memberships.values()]
        held = max(held, sum(len(frame) for frames in waiting for frame in frames))
        if not slow.is_open:
            break
        slow.wire.read_on()
        slow.wire.stall()
        world.tick()
        quick.send(Update("lobby", {"x": 1}), Update("second", {"x": 1}))
        world.settle()
    assert held <= LIMITS.outbox_hard_bytes + 1_100


def test_being_behind_for_too_long_closes_the_connection(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    world.pass_ms(LIMITS.outbox_hard_ms - 1)
    assert slow.is_open
    world.pass_ms(1_000)
    assert slow.closed_with == codes.TOO_SLOW.code
    assert quick.is_open


def test_who_catches_up_begins_a_new_time(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    world.pass_ms(LIMITS.outbox_hard_ms - 2_000)
    slow.wire.read_on()
    world.settle()
    slow.wire.stall()
    quick.send(Update("lobby", {"again": 1}))
    world.pass_ms(10_000)
    assert slow.outbox.behind
    assert slow.is_open


def test_who_was_too_slow_lingers_as_one_who_was_lost(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    world.pass_ms(LIMITS.outbox_hard_ms + 1_000)
    assert slow.closed_with == codes.TOO_SLOW.code
    assert slow.cid in world.roster("lobby")
    quick.take()
    world.pass_ms(world.presence.grace_lost_ms)
    (diff,) = quick.take_only(Diff)
    assert [(left.cid, left.reason) for left in diff.leaves] == [(slow.cid, "timeout")]


def test_the_last_words_of_a_slow_connection_are_its_bye(world: World) -> None:
    slow, _ = slow_and_quick(world, "lobby")
    world.pass_ms(LIMITS.outbox_hard_ms + 1_000)
    slow.wire._reading = True
    slow.wire._sent, slow.wire._unsent = slow.wire._unsent, b""
    last = slow.wire.take()[-1]
    assert isinstance(last, Bye)
    assert last.code == codes.TOO_SLOW.code


def test_leaving_while_behind_forgets_the_room(world: World) -> None:
    slow, quick = slow_and_quick(world, *ROOMS)
    quick.send(Update("lobby", {"x": 1}), Update("second", {"x": 1}))
    world.settle()
    slow.send(Leave("lobby"))
    told = caught_up(world, slow)
    assert [m.room for m in told if isinstance(m, Sync)] == ["second"]


def test_joining_again_while_behind_is_answered_once_and_keeps_the_messages(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby")
    quick.send(Update("lobby", {"x": 1}), Publish("lobby", data=1))
    world.settle()
    slow.send(Join("lobby", id=5))
    world.settle()
    quick.send(Update("lobby", {"x": 2}), Publish("lobby", data=2))
    world.settle()
    told = caught_up(world, slow)
    assert next(m.id for m in told if isinstance(m, Sync)) == 5
    assert [m.data for m in told if isinstance(m, Published)] == [1, 2]
    assert members_in([m for m in told if isinstance(m, Sync)][-1])[quick.cid].v >= 3


def test_a_crowd_does_not_write_to_who_is_behind() -> None:
    world = World(limits=LIMITS)
    world.rooms.views._rules.of("lobby")
    slow, quick = slow_and_quick(world, "lobby")
    unsent = slow.wire.unsent_bytes
    world.populate("lobby", 1_001)
    world.pass_ms(1_000)
    assert slow.wire.unsent_bytes == unsent
    sync = [m for m in caught_up(world, slow) if isinstance(m, Sync)][-1]
    assert (sync.mode, sync.count) == ("count", 1_003)
    assert quick.is_open


@pytest.mark.parametrize("end", ["leave", "drop", "too slow", "catch up and drop"])
def test_nothing_is_left_of_who_was_slow(world: World, end: str) -> None:
    slow, quick = slow_and_quick(world, *ROOMS)
    for room in ROOMS:
        quick.send(Update(room, {"x": 1}), Publish(room, data=1))
    world.settle()
    if end == "leave":
        slow.send(*(Leave(room) for room in ROOMS))
    elif end == "too slow":
        world.pass_ms(LIMITS.outbox_hard_ms + 1_000)
    elif end == "catch up and drop":
        slow.wire.read_on()
        world.tick()
    slow.drop()
    world.settle()
    assert slow.outbox.lagging is None
    assert slow.outbox.chunks == []
    quick.drop()
    world.outlive_everything()
    assert world.leftovers() == {}


def test_a_watcher_may_be_slow_too(world: World) -> None:
    watcher, ann = world.connect("w"), world.connect("ann")
    watcher.ask(Watch("lobby", mode="count"))
    watcher.wire.stall()
    ann.ask(Join("lobby"))
    for n in range(3):
        ann.ask(Update("lobby", {"n": n}))
    ann.ask(Leave("lobby"))
    sync = caught_up(world, watcher)[-1]
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.count, sync.you) == ("count", 0, False)


def test_who_reads_slowly_gets_the_whole_roster_of_a_room_that_changes() -> None:
    """A page takes longer to arrive than the room takes to change; each sync would begin the roster anew."""
    world = World()
    state = document({"pad": "x" * 3_000})
    for number in range(100):
        enter = Enter(f"bot-{number:03}", "bot", document({}), state, 1, "node-2", DAY_MS)
        world.store.carry_out("lobby", enter, lambda _: None)
    bob, ann = world.connect("bob"), world.connect("ann", soft_bytes=65_536)
    bob.ask(Join("lobby"))
    sync = ann.ask(Watch("lobby", id=1))
    assert isinstance(sync, Sync)
    seen, cursor = set(members_in(sync)), sync.cursor
    while cursor is not None:
        ann.wire.stall()
        ann.send(Members("lobby", cursor=cursor, id=2))
        for number in range(3):
            bob.send(Update("lobby", {"n": number}))
            world.pass_ms(100)
        ann.wire.read_on()
        messages = ann.take()
        assert not [message for message in messages if isinstance(message, Sync)]
        assert len([message for message in messages if isinstance(message, Diff)]) == 3
        (page,) = [message for message in messages if isinstance(message, Page)]
        seen, cursor = seen | set(members_in(page)), page.cursor
    assert len(seen) == 101


def test_who_is_behind_when_a_room_becomes_stale_hears_of_it_once_it_reads(world: World) -> None:
    slow, quick = slow_and_quick(world, "lobby", "second")
    slow.take()
    view = world.rooms.views.get("second")
    assert view is not None
    view.tell_stale(stale=True)
    world.settle()
    assert quick.take_only(Stale) == [Stale("second", stale=True)]
    told = [(message.room, message.stale) for message in caught_up(world, slow) if isinstance(message, Sync)]
    assert told == [("second", True)]
