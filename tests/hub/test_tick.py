"""One tick: one encoding for each codec, one write for each connection."""

import pytest

from presence_server.config.settings import RoomSettings
from presence_server.protocol.codec import JSON, MSGPACK
from presence_server.protocol.messages import (
    Diff,
    Join,
    Leave,
    Ok,
    Ping,
    Pong,
    Publish,
    Published,
    SendSignal,
    Signal,
    Sync,
    Update,
    Watch,
)
from tests.support.recording import members_in
from tests.support.world import World


@pytest.fixture
def world() -> World:
    return World()


def test_all_of_a_tick_is_one_write(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    for room in ("a", "b", "c"):
        ann.ask(Join(room))
        bob.ask(Join(room))
    ann.take()
    writes = ann.wire.writes
    for room in ("a", "b", "c"):
        bob.send(Publish(room, data=1), Update(room, {"x": 1}), Publish(room, data=2))
    ann.send(Ping(id=1), Publish("a", data=3, id=2))
    assert len(ann.take()) == 3 * 3 + 2
    assert ann.wire.writes == writes + 1


def test_nothing_is_written_without_news(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("elsewhere"))
    writes = ann.wire.writes
    bob.send(Publish("elsewhere", data=1), Update("elsewhere", {}))
    world.pass_ms(20_000)
    assert ann.wire.writes == writes


def test_a_message_is_encoded_once_for_each_encoding(world: World) -> None:
    clients = [world.connect(f"user {n}", codec=MSGPACK if n % 2 else JSON) for n in range(20)]
    for client in clients:
        client.send(Join("lobby"))
    world.settle()
    for encoding in world.encodings.values():
        encoding.encoded.clear()
    clients[0].send(Publish("lobby", data=1), Update("lobby", {"x": 1}))
    world.settle()
    for encoding in world.encodings.values():
        assert [type(message) for message in encoding.encoded] == [Published, Diff]
    for client in clients[1:]:
        assert [type(m) for m in client.take() if not isinstance(m, Sync)][-2:] == [Published, Diff]


def test_one_tick_of_changes_is_one_diff(world: World) -> None:
    ann, bob, cem = (world.connect(name) for name in ("ann", "bob", "cem"))
    ann.ask(Join("lobby"))
    ann.take()
    bob.send(Join("lobby"), Update("lobby", {"x": 1}), Update("lobby", {"x": 2}))
    cem.send(Join("lobby"), Leave("lobby"))
    (diff,) = ann.take()
    assert isinstance(diff, Diff)
    (joined,) = diff.joins
    assert (joined.cid, joined.state, joined.v) == (bob.cid, {"x": 2}, 3)
    assert (diff.updates, diff.leaves, diff.count) == ((), (), 2)


def test_who_joins_is_told_of_itself_by_its_sync_alone(world: World) -> None:
    ann = world.connect("ann")
    sync = ann.ask(Join("lobby", state={"x": 1}))
    assert isinstance(sync, Sync)
    assert list(members_in(sync)) == [ann.cid]
    assert ann.take() == []


def test_who_updates_is_told_of_it(world: World) -> None:
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.send(Update("lobby", {"x": 1}))
    (diff,) = ann.take_only(Diff)
    assert [(update.cid, update.v) for update in diff.updates] == [(ann.cid, 2)]


def test_a_message_comes_after_its_senders_join(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    world.populate("lobby", 120)
    ann.ask(Join("lobby"))
    world.pass_ms(1_000)
    bob.send(Join("lobby"))
    ann.take()
    cem = world.connect("cem")
    cem.send(Join("lobby"), Publish("lobby", data="hello"))
    diff, message = ann.take()
    assert isinstance(diff, Diff)
    assert [member.cid for member in diff.joins] == [cem.cid]
    assert isinstance(message, Published)
    assert message.data == "hello"


def test_messages_come_in_their_senders_order(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("lobby"))
    bob.send(*(Publish("lobby", data=n) for n in range(50)))
    assert [message.data for message in ann.take_only(Published)] == list(range(50))


def test_a_sender_does_not_hear_itself_but_hears_the_others_of_the_same_tick(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("lobby"))
    ann.take()
    for n in range(3):
        ann.send(Publish("lobby", data=f"ann {n}"))
        bob.send(Publish("lobby", data=f"bob {n}"))
    assert [message.data for message in ann.take_only(Published)] == ["bob 0", "bob 1", "bob 2"]
    assert [message.data for message in bob.take_only(Published)] == ["ann 0", "ann 1", "ann 2"]


def test_the_second_tab_of_a_sender_hears_it(world: World) -> None:
    tab, other_tab = world.connect("ann"), world.connect("ann")
    tab.ask(Join("lobby"))
    other_tab.ask(Join("lobby"))
    tab.send(Publish("lobby", data=1))
    assert [message.data for message in other_tab.take_only(Published)] == [1]


def test_of_one_ticks_signals_the_latest_of_each_key_is_told(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Join("lobby"))
    ann.take()
    for x in range(5):
        bob.send(SendSignal("lobby", "cursor", x))
    bob.send(SendSignal("lobby", "typing", data=True))
    ann.send(SendSignal("lobby", "cursor", 99))
    assert [(signal.cid, signal.key, signal.data) for signal in ann.take_only(Signal)] == [
        (bob.cid, "cursor", 4),
        (bob.cid, "typing", True),
    ]
    assert [signal.data for signal in bob.take_only(Signal)] == [99]
    bob.send(SendSignal("lobby", "cursor", 5))
    assert [signal.data for signal in ann.take_only(Signal)] == [5]


def test_a_reply_is_there_whatever_the_mode(world: World) -> None:
    ann = world.connect("ann")
    ann.ask(Join("lobby", mode="none"))
    assert isinstance(ann.ask(Update("lobby", {"x": 1})), Ok)
    assert isinstance(ann.ask(Ping()), Pong)


def test_rooms_are_told_apart(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Watch("a"))
    ann.ask(Watch("b"))
    bob.ask(Join("b"))
    (diff,) = ann.take()
    assert isinstance(diff, Diff)
    assert diff.room == "b"


def test_an_empty_hub_asks_for_no_tick() -> None:
    world = World(rooms=[RoomSettings()])
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.send(Leave("lobby"))
    world.pass_ms(5_000)
    assert world._wake_at_ms is None


def test_an_overloaded_node_drops_signals_and_nothing_else(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    ann.take()
    world.overloaded = True
    bob.send(SendSignal("lobby", "cursor", 1), Publish("lobby", data=1), Update("lobby", {"x": 1}))
    assert [type(message) for message in ann.take()] == [Published, Diff]
    world.overloaded = False
    bob.send(SendSignal("lobby", "cursor", 2))
    assert [type(message) for message in ann.take()] == [Signal]
