"""Who is told what in one room, each once, and what of it is counted."""

import pytest

from presence_server.config.settings import LimitsSettings, RoomSettings
from presence_server.protocol.messages import (
    Diff,
    Join,
    Leave,
    Publish,
    Published,
    SendSignal,
    Signal,
    Stale,
    Sync,
    Update,
    Watch,
)
from tests.support.world import Client, World

LIMITS = LimitsSettings(outbox_soft_bytes=1_000, outbox_hard_bytes=10_000, outbox_hard_ms=30_000)
FULL_MAX = 10


@pytest.fixture
def world() -> World:
    return World(limits=LIMITS, rooms=[RoomSettings(pattern="small", full_max=FULL_MAX)])


def members(world: World, *users: str, room: str = "lobby") -> list[Client]:
    clients = [world.connect(user) for user in users]
    for client in clients:
        client.ask(Join(room))
    for client in clients:
        client.take()
    return clients


def fall_behind(slow: Client, quick: Client, room: str = "lobby") -> None:
    slow.wire.stall()
    quick.send(Update(room, {"first": "fills the socket"}))
    quick.take()
    assert slow.outbox.behind


def read_on(slow: Client) -> list[object]:
    slow.wire.read_on()
    return list(slow.take())


def data_of(messages: list[object]) -> list[object]:
    return [message.data for message in messages if isinstance(message, Published)]


def test_what_concerns_the_room_itself_reaches_every_watcher_in_every_mode(world: World) -> None:
    clients = [world.connect(mode) for mode in ("full", "count", "none")]
    for client in clients:
        client.ask(Watch("lobby", mode=client.session.user))  # type: ignore[arg-type]  # named after the modes
        client.take()
    channel = clients[0].session.participant.memberships["lobby"].view.channel
    channel.announce(Stale("lobby", stale=True))
    for client in clients:
        assert client.take() == [Stale("lobby", stale=True)]


def test_who_joins_and_leaves_at_once_gets_its_replies_and_is_told_nothing_more(world: World) -> None:
    (bob,) = members(world, "bob")
    ann = world.connect("ann")
    ann.send(Join("lobby", id=1), Leave("lobby", id=2))
    assert {getattr(message, "id", None) for message in ann.take()} >= {1, 2}
    bob.send(Publish("lobby", data=1), Update("lobby", {"x": 1}))
    assert ann.take() == []


def test_the_sync_of_who_leaves_before_it_was_sent_has_the_numbers_of_the_members_in_it(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    ann.take()
    ann.session.receive_message(Join("lobby", id=1))
    world.connect("carol").session.receive_message(Join("lobby"))
    ann.session.receive_message(Leave("lobby", id=2))
    world.settle()
    sync, _ = ann.take()
    assert isinstance(sync, Sync)
    assert (sync.count, sync.users) == (len(sync.members), len(sync.members)) == (2, 2)


def test_who_leaves_as_the_only_one_of_its_encoding_and_mode_is_told_nothing_more(world: World) -> None:
    ann, bob = members(world, "ann", "bob")
    watcher = world.connect("watcher")
    watcher.ask(Watch("lobby", mode="count"))
    watcher.ask(Leave("lobby"))
    watcher.take()
    bob.send(Publish("lobby", data=1))
    assert watcher.take() == []
    assert data_of(list(ann.take())) == [1]


@pytest.mark.parametrize("request_id", [None, 7])
def test_a_roster_that_was_asked_for_is_charged_for_with_or_without_an_id(
    world: World, request_id: int | None
) -> None:
    ann = world.connect("ann")
    ann.send(Join("lobby", id=request_id) if request_id else Join("lobby"))
    world.settle()
    assert ann.outbox.answered_bytes > 0
    (sync,) = ann.take_only(Sync)
    assert sync.id == request_id


def test_a_roster_that_the_room_owes_is_charged_to_nobody(world: World) -> None:
    slow, quick = members(world, "slow", "quick")
    fall_behind(slow, quick)
    charged = slow.outbox.answered_bytes
    quick.send(Update("lobby", {"x": 1}))
    world.settle()
    assert any(isinstance(message, Sync) for message in read_on(slow))
    assert slow.outbox.answered_bytes == charged


def test_a_room_that_becomes_crowded_tells_so_at_its_own_cost(world: World) -> None:
    (ann,) = members(world, "ann", room="small")
    charged = ann.outbox.answered_bytes
    world.populate("small", FULL_MAX)
    world.pass_ms(1_000)
    assert [sync.mode for sync in ann.take_only(Sync)] == ["count"]
    assert ann.outbox.answered_bytes == charged


def test_each_request_for_a_roster_has_its_answer(world: World) -> None:
    ann, _ = members(world, "ann", "bob")
    ann.send(Watch("lobby", id=1), Watch("lobby", id=2), Watch("lobby"), Watch("lobby", id=3))
    assert [sync.id for sync in ann.take_only(Sync) if sync.id] == [1, 2, 3]


def test_requests_without_an_id_that_wait_have_one_answer(world: World) -> None:
    ann, _ = members(world, "ann", "bob")
    ann.send(Watch("lobby"), Watch("lobby"), Watch("lobby"))
    assert len(ann.take_only(Sync)) == 1


def test_every_message_that_waited_comes_and_is_counted_no_longer(world: World) -> None:
    slow, quick = members(world, "slow", "quick")
    fall_behind(slow, quick)
    for n in range(3):
        quick.send(Publish("lobby", data=n))
        world.settle()
    waited = slow.outbox.held_bytes
    assert waited > 0
    assert world.hub.unsent_bytes >= waited
    assert data_of(read_on(slow)) == [0, 1, 2]
    assert slow.outbox.held_bytes == 0


def test_messages_wait_each_time_that_a_connection_falls_behind(world: World) -> None:
    slow, quick = members(world, "slow", "quick")
    for n in range(3):
        fall_behind(slow, quick)
        quick.send(Publish("lobby", data=n))
        world.settle()
        assert slow.outbox.held_bytes > 0
        assert data_of(read_on(slow)) == [n]
        assert slow.outbox.held_bytes == 0


def test_messages_that_wait_for_who_leaves_are_counted_no_longer(world: World) -> None:
    slow, quick = members(world, "slow", "quick")
    fall_behind(slow, quick)
    quick.send(Publish("lobby", data=1))
    world.settle()
    assert slow.outbox.held_bytes > 0
    slow.send(Leave("lobby"))
    world.settle()
    assert slow.outbox.held_bytes == 0
    assert data_of(read_on(slow)) == []


def test_who_asked_again_while_behind_is_told_everything_once_when_it_reads(world: World) -> None:
    slow, quick = members(world, "slow", "quick")
    fall_behind(slow, quick)
    quick.send(Publish("lobby", data=0))
    slow.send(Watch("lobby", id=5))
    world.settle()
    assert data_of(read_on(slow)) == [0]
    for n in (1, 2):
        quick.send(Publish("lobby", data=n))
        assert data_of(list(slow.take())) == [n]
    assert slow.outbox.held_bytes == 0


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_room_that_is_crowded_for_a_moment_tells_so_even_where_nobody_has_come(
    world: World, *, is_behind: bool
) -> None:
    """It is crowded until it is clearly below `full_max`, though all that came have gone."""
    ann, bob = members(world, "ann", "bob", room="small")
    world.populate("small", FULL_MAX - 2)
    world.pass_ms(1_000)
    ann.take()
    if is_behind:
        fall_behind(ann, bob, "small")
        ann.wire.read_on()  # nothing of the roster is missed so far
        ann.wire.stall()
        bob.send(Publish("small", data="fills the socket"))
        world.settle()
        assert ann.outbox.behind
        assert not [message for message in ann.wire.take() if isinstance(message, Sync)]
    world.remove("small", world.populate("small", 1, start=FULL_MAX))
    sync = [message for message in read_on(ann) if isinstance(message, Sync)][-1]
    assert (sync.mode, sync.count) == ("count", FULL_MAX)


def test_deliveries_are_events_times_those_who_are_told_at_once(world: World) -> None:
    slow, quick, third = members(world, "slow", "quick", "third")
    before = world.hub.deliveries
    quick.send(Update("lobby", {"n": 0}))
    world.settle()
    assert world.hub.deliveries == before + 3
    quick.send(Update("lobby", {"n": 1}))
    world.settle()
    assert world.hub.deliveries == before + 6
    slow.take()
    fall_behind(slow, quick)
    before = world.hub.deliveries
    third.send(SendSignal("lobby", "cursor", 1), SendSignal("lobby", "typing", 1))
    world.settle()
    assert world.hub.deliveries == before + 2 * 2


def test_each_connection_that_falls_behind_in_a_room_is_counted_once(world: World) -> None:
    first, second, quick = members(world, "first", "second", "quick")
    fall_behind(first, quick)
    quick.send(Update("lobby", {"n": 1}))
    world.settle()
    assert world.hub.conflations == 1
    quick.send(Update("lobby", {"n": 2}))
    world.settle()
    assert world.hub.conflations == 1
    read_on(first)
    fall_behind(first, quick)
    fall_behind(second, quick)
    quick.send(Update("lobby", {"n": 3}))
    world.settle()
    assert world.hub.conflations == 3


def test_what_a_room_is_told_is_counted_by_kind_however_many_watch(world: World) -> None:
    ann, _, _ = members(world, "ann", "bob", "cem")
    before = dict(world.hub.events)
    ann.send(Publish("lobby", data=1), SendSignal("lobby", "k", 1), Publish("lobby", data=2))
    ann.send(Update("lobby", {"x": 1}))
    world.settle()
    after = world.hub.events
    assert {kind: after[kind] - before.get(kind, 0) for kind in (Published, Signal, Diff)} == {
        Published: 2,
        Signal: 1,
        Diff: 1,
    }


def test_a_message_in_the_turn_in_which_a_connection_reads_again_comes_after_what_it_asked_for(
    world: World,
) -> None:
    slow, quick = members(world, "slow", "quick")
    fall_behind(slow, quick)
    slow.send(Watch("lobby", id=5))
    world.settle()
    slow.wire.read_on()
    quick.send(Publish("lobby", data="meanwhile"))
    told = [message for message in slow.take() if isinstance(message, Sync | Published)]
    assert [type(message) for message in told] == [Sync, Published]
    quick.send(Publish("lobby", data="later"))
    assert data_of(list(slow.take())) == ["later"]
    assert slow.outbox.held_bytes == 0


def test_what_was_told_before_a_watcher_has_its_numbers_is_not_told_to_it(world: World) -> None:
    """The room is so big that its changes wait, but numbers do not wait for them."""
    ann, bob = members(world, "ann", "bob")
    world.populate("lobby", 200)
    world.pass_ms(1_000)
    bob.send(Update("lobby", {"x": 1}))
    world.settle()
    bob.send(Update("lobby", {"x": 2}))
    watcher = world.connect("watcher")
    watcher.send(Watch("lobby", mode="count"))
    ann.send(SendSignal("lobby", "cursor", 1))
    assert [type(message) for message in watcher.take()] == [Sync]
