"""Adaptive batching: the more members, the fewer diffs a second."""

import pytest

from presence_server.config.settings import RoomSettings
from presence_server.hub.window import due_ms, window_ms
from presence_server.protocol.messages import Count, Diff, Join, Publish, Published, Sync, Update, Watch
from tests.support.recording import members_in
from tests.support.world import Client, World


@pytest.mark.parametrize(
    ("members", "window"),
    [
        (0, 0),
        (1, 0),
        (99, 0),
        (100, 50),
        (999, 50),
        (1_000, 250),
        (4_999, 250),
        (5_000, 1_000),
        (10**6, 1_000),
    ],
)
def test_the_window_grows_with_the_room(members: int, window: int) -> None:
    assert window_ms(members) == window


def test_a_change_is_told_at_once_after_a_quiet_window_and_at_the_windows_end_within_one() -> None:
    assert due_ms(1_000, 0, members=100) == 1_000
    assert due_ms(1_000, 999, members=100) == 1_049
    assert due_ms(1_000, 950, members=100) == 1_000
    assert due_ms(1_000, 1_000, members=10) == 1_000


def crowd(members: int) -> tuple[World, Client]:
    """A quiet room of so many members, and somebody who watches it."""
    world = World(rooms=[RoomSettings(full_max=100_000)])
    world.populate("lobby", members)
    watcher = world.connect("watcher")
    watcher.ask(Watch("lobby"))
    world.pass_ms(2_000)
    watcher.take()
    return world, watcher


@pytest.mark.parametrize(("members", "window"), [(100, 50), (1_000, 250), (5_000, 1_000)])
def test_the_first_change_is_told_at_once_and_then_one_diff_a_window(members: int, window: int) -> None:
    world, watcher = crowd(members)
    told_after_ms = []
    for ms in range(0, 3 * window, 10):
        world.populate("lobby", 1, start=members + ms)
        told_after_ms += [ms for _ in watcher.take_only(Diff)]
        world.pass_ms(10)
    assert told_after_ms == [0, window, 2 * window]
    world.pass_ms(window)
    told = watcher.take_only(Diff)
    assert len(told) == 1
    assert told[-1].count == len(world.roster("lobby"))


def test_a_small_room_tells_every_tick() -> None:
    world, watcher = crowd(98)
    for n in range(5):
        world.remove("lobby", [f"bot-{n:05}"])
        assert len(watcher.take_only(Diff)) == 1


def test_a_message_does_not_wait_and_takes_the_open_batch_along() -> None:
    world, watcher = crowd(200)
    world.populate("lobby", 1, start=500)
    assert len(watcher.take()) == 1
    ann = world.connect("ann")
    ann.send(Join("lobby"))
    assert watcher.take() == []
    ann.send(Publish("lobby", data="hello"))
    diff, message = watcher.take()
    assert isinstance(diff, Diff)
    assert [member.cid for member in diff.joins] == [ann.cid]
    assert isinstance(message, Published)


def test_a_sync_waits_for_the_window_and_only_newer_changes_follow_it() -> None:
    world, watcher = crowd(200)
    world.populate("lobby", 1, start=500)
    assert len(watcher.take()) == 1
    ann = world.connect("ann")
    ann.send(Join("lobby", id=1))
    world.populate("lobby", 1, start=501)
    assert ann.take() == []
    world.pass_ms(50)
    (sync,) = ann.take()
    assert isinstance(sync, Sync)
    assert {ann.cid, "bot-00501"} <= set(members_in(sync))
    world.remove("lobby", ["bot-00501"])
    world.pass_ms(50)
    (diff,) = ann.take()
    assert isinstance(diff, Diff)
    assert diff.seq > sync.seq
    assert [left.cid for left in diff.leaves] == ["bot-00501"]


def test_joining_again_while_a_window_is_open_is_answered_by_what_is_newer_than_all_before() -> None:
    world, watcher = crowd(200)
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    world.pass_ms(100)
    world.populate("lobby", 1, start=500)
    watcher.take()
    ann.take()
    ann.send(Update("lobby", {"x": 1}), Join("lobby", id=7))
    world.populate("lobby", 1, start=501)
    world.pass_ms(50)
    (sync,) = ann.take()
    assert isinstance(sync, Sync)
    assert sync.id == 7
    assert members_in(sync)[ann.cid].state == {"x": 1}
    assert "bot-00501" in members_in(sync)


def test_two_requests_for_one_sync_are_two_answers() -> None:
    world, watcher = crowd(200)
    world.populate("lobby", 1, start=500)
    watcher.take()
    ann = world.connect("ann")
    ann.send(Join("lobby", id=1), Join("lobby", id=2), Watch("lobby"))
    world.pass_ms(50)
    syncs = ann.take_only(Sync)
    assert [sync.id for sync in syncs][:2] == [1, 2]
    assert len(syncs) == 3
    assert all(sync.you for sync in syncs)


def test_numbers_do_not_wait_for_a_sync_of_rosters() -> None:
    world, watcher = crowd(200)
    world.populate("lobby", 1, start=500)
    watcher.take()
    world.populate("lobby", 1, start=501)
    ann = world.connect("ann")
    sync = ann.ask(Watch("lobby", mode="count"))
    assert isinstance(sync, Sync)
    assert sync.count == 202
    world.pass_ms(50)
    assert [count.count for count in ann.take_only(Count)] == [202]
