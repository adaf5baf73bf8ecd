"""What each mode is told, and what becomes of rosters in a crowd."""

from presence_server.config.settings import RoomSettings
from presence_server.protocol.messages import (
    Count,
    Diff,
    Join,
    Leave,
    Members,
    Mode,
    Page,
    Publish,
    Published,
    SendSignal,
    Signal,
    Sync,
    Update,
    Watch,
)
from tests.support.recording import members_in
from tests.support.world import Client, World


def test_count_mode_tells_numbers_and_no_names() -> None:
    world = World()
    watcher, ann, tab = world.connect("w"), world.connect("ann"), world.connect("ann")
    sync = watcher.ask(Watch("lobby", mode="count"))
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.members, sync.cursor, sync.you) == ("count", [], None, False)
    ann.ask(Join("lobby"))
    tab.ask(Join("lobby"))
    assert [(c.count, c.users) for c in watcher.take_only(Count)] == [(1, 1), (2, 1)]


def test_none_mode_tells_nothing_of_the_roster() -> None:
    world = World()
    watcher, ann = world.connect("w"), world.connect("ann")
    sync = watcher.ask(Watch("lobby", mode="none"))
    assert isinstance(sync, Sync)
    assert sync.mode == "none"
    ann.ask(Join("lobby"))
    ann.ask(Update("lobby", {"x": 1}))
    assert watcher.take() == []


def test_messages_and_signals_come_in_every_mode() -> None:
    world = World()
    ann = world.connect("ann")
    watchers = [world.connect("w") for _ in range(3)]
    modes: tuple[Mode, ...] = ("full", "count", "none")
    for watcher, mode in zip(watchers, modes, strict=True):
        watcher.ask(Watch("lobby", mode=mode))
    ann.ask(Join("lobby"))
    ann.send(Publish("lobby", data=1), SendSignal("lobby", "k", 2))
    for watcher in watchers:
        assert [type(m) for m in watcher.take() if isinstance(m, Published | Signal)] == [Published, Signal]


def test_a_rooms_own_mode_holds_for_who_names_none() -> None:
    world = World(
        rooms=[RoomSettings(pattern="quiet-*", mode="none"), RoomSettings(pattern="*", mode="count")]
    )
    ann = world.connect("ann")
    for room, mode in (("quiet-1", "none"), ("lobby", "count")):
        sync = ann.ask(Join(room))
        assert isinstance(sync, Sync)
        assert sync.mode == mode
    sync = ann.ask(Join("lobby", mode="full"))
    assert isinstance(sync, Sync)
    assert sync.mode == "full"


def test_a_mode_can_be_changed_and_stays_when_none_is_named() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    for mode in ("count", "none", "full"):
        for request in (Join("lobby", mode=mode), Join("lobby"), Watch("lobby")):
            sync = ann.ask(request)
            assert isinstance(sync, Sync)
            assert (sync.mode, sync.you) == (mode, True)
        bob.ask(Join("lobby"))
        bob.send(Leave("lobby"))
        kinds = {type(message) for message in ann.take()}
        assert kinds == {"count": {Count}, "none": set(), "full": {Diff}}[mode]


def crowded(full_max: int = 20) -> tuple[World, Client]:
    world = World(rooms=[RoomSettings(full_max=full_max)])
    world.populate("lobby", full_max)
    watcher = world.connect("watcher")
    sync = watcher.ask(Watch("lobby"))
    assert isinstance(sync, Sync)
    assert (sync.mode, len(members_in(sync))) == ("full", full_max)
    return world, watcher


def test_a_crowd_is_told_as_numbers_with_an_unasked_sync() -> None:
    world, watcher = crowded()
    world.populate("lobby", 1, start=20)
    (sync,) = watcher.take()
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.count, sync.members) == ("count", 21, [])
    assert "id" not in sync.__struct_fields__ or not isinstance(sync.id, int)
    world.populate("lobby", 1, start=21)
    assert [type(message) for message in watcher.take()] == [Count]


def test_a_crowd_that_thins_out_has_a_roster_again_but_does_not_flap() -> None:
    world, watcher = crowded()
    world.populate("lobby", 1, start=20)
    watcher.take()
    for n in (20, 19):
        world.remove("lobby", [f"bot-{n:05}"])
        assert [type(message) for message in watcher.take()] == [Count]
    world.remove("lobby", ["bot-00018"])
    (sync,) = watcher.take()
    assert isinstance(sync, Sync)
    assert (sync.mode, len(members_in(sync))) == ("full", 18)
    world.populate("lobby", 1, start=18)
    assert [type(message) for message in watcher.take()] == [Diff]


def test_who_asked_for_numbers_or_nothing_notices_no_crowd() -> None:
    world, _ = crowded()
    counting, quiet = world.connect("c"), world.connect("q")
    counting.ask(Watch("lobby", mode="count"))
    quiet.ask(Watch("lobby", mode="none"))
    world.populate("lobby", 1, start=20)
    assert [type(message) for message in counting.take()] == [Count]
    assert quiet.take() == []


def test_who_joins_a_crowd_is_served_numbers_and_may_page() -> None:
    world, _ = crowded()
    world.populate("lobby", 1, start=20)
    world.settle()
    ann = world.connect("ann")
    sync = ann.ask(Join("lobby", mode="full"))
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.you, sync.count) == ("count", True, 22)
    page = ann.ask(Members("lobby"))
    assert isinstance(page, Page)
    assert len(members_in(page)) == 22


def test_who_makes_the_crowd_is_served_numbers_itself() -> None:
    world, _ = crowded()
    ann = world.connect("ann")
    sync = ann.ask(Join("lobby"))
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.count) == ("count", 21)
    assert ann.take() == []


def test_the_numbers_are_those_after_the_diff() -> None:
    world = World()
    watcher, ann, tab = world.connect("w"), world.connect("ann"), world.connect("ann")
    watcher.ask(Watch("lobby"))
    told = []
    for client, request in (
        (ann, Join("lobby")),
        (tab, Join("lobby")),
        (ann, Leave("lobby")),
        (tab, Leave("lobby")),
    ):
        client.send(request)
        told += [(diff.count, diff.users) for diff in watcher.take_only(Diff)]
    assert told == [(1, 1), (2, 1), (1, 1), (0, 0)]
