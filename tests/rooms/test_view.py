"""How a view goes by what other nodes say when they have brought their members back."""

from collections.abc import Callable

import msgspec

from presence_server.config.settings import RoomSettings
from presence_server.hub.hub import Hub
from presence_server.presence.roster import Delta, Record, Snapshot
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import Join, Member, MemberLeave
from presence_server.rooms.events import NodeReentered
from presence_server.rooms.view import View
from tests.support.world import World

NOW_MS = [1_000]
"""The time, moved by hand."""
Reads = list[Callable[[Snapshot], None]]


def record(cid: str, node: str = "B", epoch: int = 1) -> Record:
    empty = msgspec.Raw(b"{}")
    return Record(Member(cid, "ann", empty, empty, 1, 1), epoch, node)


def watched(*cids: str) -> tuple[View, Reads]:
    """Make the view of node A of a room that has members of node B, at seq 3 of generation 7."""
    reads: Reads = []
    hub = Hub(
        lambda delay_ms: None,
        soft_bytes=100_000,
        hard_bytes=1_000_000,
        hard_ms=30_000,
        total_bytes=10_000_000,
        sheds_signal=lambda: False,
        now_s=float,
    )
    view = View(
        "lobby",
        RoomSettings(),
        hub,
        lambda room, done, members_max: reads.append(done),
        node="A",
        history_broken=lambda room, ghosts: None,
        is_lingering=lambda cid, room: False,
        now_ms=lambda: NOW_MS[0],
        fence_ms=60_000,
        stale=False,
    )
    view.feed.load()
    reads.pop()(Snapshot(7, 3, tuple(map(record, cids))))
    return view, reads


def test_what_a_node_said_of_a_return_without_changes_does_not_resolve_later_ones() -> None:
    view, reads = watched("x")
    view.isolate(99)
    view.rejoin(trusted=True)
    view.receive_event(NodeReentered("B", 7))
    view.note_position(7, 3, 0)
    assert reads == []
    view.receive_event(Delta(7, 4, 2, 2, joins=(record("y"),)))
    view.isolate(100)
    view.rejoin(trusted=False)
    reads.pop()(Snapshot(7, 3, (record("x"),)))
    assert set(view.roster.records) == {"x", "y"}


def test_what_a_node_said_during_a_read_that_was_given_up_does_not_resolve_later_ones() -> None:
    view, reads = watched("x")
    view.feed.load()
    view.receive_event(NodeReentered("B", 7))
    view.isolate(99)
    view.rejoin(trusted=False)
    reads.pop()(Snapshot(7, 2, ()))
    assert set(view.roster.records) == {"x"}


def test_members_that_a_node_has_not_brought_back_go_when_it_says_so() -> None:
    view, reads = watched("x", "y")
    view.isolate(99)
    view.rejoin(trusted=False)
    view.receive_event(NodeReentered("B", 8))
    reads.pop()(Snapshot(8, 1, (record("x"),)))
    assert set(view.roster.records) == {"x"}


def test_what_a_node_said_of_another_generation_does_not_count() -> None:
    view, reads = watched("x", "y")
    view.isolate(99)
    view.rejoin(trusted=False)
    view.receive_event(NodeReentered("B", 7))
    reads.pop()(Snapshot(8, 1, (record("x"),)))
    assert set(view.roster.records) == {"x", "y"}
    view.receive_event(NodeReentered("B", 8))
    assert set(view.roster.records) == {"x"}
    view.resolve_provisional()
    assert set(view.roster.records) == {"x"}


def test_who_is_not_brought_back_in_time_is_gone() -> None:
    view, reads = watched("x", "y")
    view.isolate(99)
    view.rejoin(trusted=False)
    reads.pop()(Snapshot(8, 1, (record("x"),)))
    view.resolve_provisional()
    assert set(view.roster.records) == {"x"}


def test_who_is_in_a_later_snapshot_is_provisional_no_more() -> None:
    view, reads = watched("x", "y")
    view.isolate(99)
    view.rejoin(trusted=False)
    reads.pop()(Snapshot(8, 1, (record("x"),)))
    view.feed.load()
    reads.pop()(Snapshot(8, 2, (record("x"), record("y"))))
    view.receive_event(NodeReentered("B", 8))
    view.resolve_provisional()
    assert set(view.roster.records) == {"x", "y"}


def test_messages_of_a_member_that_was_taken_for_dead_are_passed_over_for_a_while() -> None:
    view, _ = watched("x")
    view.receive_event(Delta(7, 4, 0, 0, leaves=(MemberLeave("x", "ann", "timeout"),)))
    assert view._is_outdated("x", 1)
    assert not view._is_outdated("x", 2)
    NOW_MS[0] += 60_000
    assert not view._is_outdated("x", 1)


def test_a_member_that_is_back_is_heard() -> None:
    view, _ = watched("x")
    view.receive_event(Delta(7, 4, 0, 0, leaves=(MemberLeave("x", "ann", "timeout"),)))
    view.receive_event(Delta(7, 5, 1, 1, joins=(record("x"),)))
    view.receive_event(Delta(7, 6, 0, 0, leaves=(MemberLeave("x", "ann", "left"),)))
    assert not view._is_outdated("x", 1)


def test_who_is_served_here_stays_in_a_room_that_the_store_refuses_to_enter_anybody_in() -> None:
    world = World()
    ann, bob = world.connect("ann"), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    view = world.rooms.views.get("lobby")
    assert view is not None
    bob.drop(Ending.LOST)
    view.isolate(99)
    world.store.clear()
    view.rejoin(trusted=False)
    for _ in range(2):
        view.resolve_provisional()
        assert set(view.roster.records) == {ann.cid}


def test_who_has_left_is_not_kept_through_an_isolation_that_came_before_its_leave() -> None:
    view, _ = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A"),)))
    view.own.await_leave("own", "left")
    assert view.own.all_absent() == []
    view.drop_leaving()
    view.isolate(99)
    assert set(view.roster.records) == {"x"}


def test_who_has_left_is_not_provisional_when_the_store_loses_what_it_had_said() -> None:
    view, reads = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A"),)))
    view.own.await_leave("own", "left")
    view.feed.load(trusted=False)
    reads.pop()(Snapshot(8, 1, ()))
    assert set(view.roster.records) == {"x"}


def test_who_comes_back_after_a_leave_is_let_go_by_nothing_but_another_one() -> None:
    view, _ = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A"),)))
    view.own.await_leave("own", "left")
    view.receive_event(Delta(7, 5, 1, 1, leaves=(MemberLeave("own", "ann", "left"),)))
    view.receive_event(Delta(7, 6, 2, 1, joins=(record("own", "A"),)))
    view.drop_leaving()
    assert set(view.roster.records) == {"x", "own"}


def test_an_earlier_life_that_a_restored_store_brings_back_is_passed_over_until_members_are_resolved() -> (
    None
):
    view, reads = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A", 3),)))
    view.receive_event(Delta(7, 5, 1, 1, leaves=(MemberLeave("own", "ann", "left"),)))
    restored = (record("x"), record("own", "B", 2), record("y", "B", 2))
    for trusted in (False, True):
        view.feed.load(trusted=trusted)
        reads.pop()(Snapshot(7, 3, restored))
        assert set(view.roster.records) == {"x", "y"}
    view.resolve_provisional()
    reads.pop()(Snapshot(7, 3, restored))
    assert set(view.roster.records) == {"x", "y", "own"}


def test_a_later_life_that_a_restored_store_has_is_a_member() -> None:
    view, reads = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A", 3),)))
    view.receive_event(Delta(7, 5, 1, 1, leaves=(MemberLeave("own", "ann", "left"),)))
    view.feed.load(trusted=False)
    reads.pop()(Snapshot(7, 3, (record("x"), record("own", "B", 4))))
    assert set(view.roster.records) == {"x", "own"}


def test_who_is_gone_is_remembered_for_a_while() -> None:
    view, reads = watched("x")
    view.receive_event(Delta(7, 4, 2, 1, joins=(record("own", "A", 3),)))
    view.receive_event(Delta(7, 5, 1, 1, leaves=(MemberLeave("own", "ann", "left"),)))
    NOW_MS[0] += 60_000
    view.feed.load(trusted=False)
    reads.pop()(Snapshot(7, 3, (record("x"), record("own", "B", 2))))
    assert set(view.roster.records) == {"x", "own"}


def test_what_changed_while_a_delta_was_missed_is_told_by_the_snapshot() -> None:
    view, reads = watched("x", "y", "z")
    assert view.take_diff() is not None
    view.receive_event(Delta(7, 5, 3, 3, joins=(record("v"),)))  # 4 was missed
    busy = msgspec.structs.replace(record("x").member, state=msgspec.Raw(b'"busy"'), v=2)
    changed = msgspec.structs.replace(record("x"), member=busy)
    reads.pop()(Snapshot(7, 5, (changed, record("y"), record("v"))))
    diff = view.take_diff()
    assert diff is not None
    assert [(update.cid, bytes(update.state), update.v) for update in diff.updates] == [("x", b'"busy"', 2)]
    assert [member.cid for member in diff.joins] == ["v"]
    assert [leave.cid for leave in diff.leaves] == ["z"]
    assert view.roster.records["x"].member == busy
