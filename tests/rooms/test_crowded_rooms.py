"""Crowded rooms: a view holds no roster of them, and pages come from the store."""

from typing import Final

import pytest

from presence_server.config.settings import RoomSettings
from presence_server.presence.roster import Delta, MemberCounts, Record
from presence_server.protocol.codec import document
from presence_server.protocol.messages import (
    Count,
    Error,
    Join,
    Leave,
    Member,
    MemberLeave,
    Members,
    Page,
    Published,
    Reason,
    Sync,
    Watch,
)
from presence_server.rooms.crowd import EPOCHS_MAX, Crowd
from presence_server.rooms.events import Publication
from presence_server.rooms.view import View
from tests.support.world import Client, World

FULL_MAX: Final = 20


def view_of(client: Client) -> View:
    (membership,) = client.session.participant.memberships.values()
    return membership.view


@pytest.fixture
def world() -> World:
    return World(rooms=[RoomSettings(full_max=FULL_MAX)])


def watching(world: World, members: int) -> Client:
    """Return a client that watches a room with members."""
    world.populate("lobby", members)
    watcher = world.connect("watcher")
    watcher.ask(Watch("lobby"))
    return watcher


def page(client: Client, cursor: str | None, limit: int = 7) -> tuple[list[str], str | None]:
    answer = client.ask(Members("lobby", cursor, limit))
    assert isinstance(answer, Page), answer
    return [member["cid"] for member in answer.members], answer.cursor


def every_page(client: Client, cursor: str | None = None) -> list[str]:
    found: list[str] = []
    for _ in range(100):
        cids, cursor = page(client, cursor)
        found += cids
        if cursor is None:
            return found
    raise AssertionError("pages without end")


def test_a_view_holds_the_roster_of_a_room_only_while_it_is_not_crowded(world: World) -> None:
    view = view_of(watching(world, FULL_MAX))
    assert (view.holds_roster, len(view.roster.records)) == (True, FULL_MAX)
    world.populate("lobby", 1, start=FULL_MAX)
    world.settle()
    assert (view.holds_roster, view.roster.records, view.roster.users) == (False, {}, {})
    assert (view.members, view.users) == (FULL_MAX + 1, FULL_MAX + 1)
    world.remove("lobby", [f"bot-{n:05}" for n in range(4)])
    world.settle()
    assert (view.holds_roster, len(view.roster.records)) == (True, FULL_MAX - 3)


def test_a_crowd_keeps_nothing_of_each_member_that_comes_and_goes(world: World) -> None:
    view = view_of(watching(world, 100))
    for turn in range(5):
        cids = world.populate("lobby", 50, start=1_000 + 50 * turn)
        world.settle()
        assert len(view.roster.records) == 0
        assert not view._watched._batch
        world.remove("lobby", cids[:40])
    assert view.members == 100 + 5 * 10


def test_only_numbers_that_have_changed_are_told(world: World) -> None:
    watcher = watching(world, 2 * FULL_MAX)
    watcher.take()
    ann = world.connect("ann")
    ann.ask(Join("lobby", {"n": 1}))
    assert [(message.count, message.users) for message in watcher.take() if isinstance(message, Count)] == [
        (41, 41)
    ]
    ann.ask(Join("lobby", {"n": 2}))
    world.pass_ms(5_000)
    assert watcher.take() == []


def test_pages_of_a_crowd_hold_everybody(world: World) -> None:
    watcher = watching(world, 100)
    world.connect("ann").ask(Join("lobby"))
    assert sorted(set(every_page(watcher))) == sorted(world.roster("lobby"))


def test_a_page_of_a_crowd_keeps_to_the_bytes_of_a_page() -> None:
    world = World(rooms=[RoomSettings(full_max=2)])
    for n in range(60):
        world.connect(f"user-{n}").ask(Join("lobby", {"text": "x" * 4_000}))
    watcher = world.connect("watcher")
    watcher.ask(Watch("lobby"))
    cids, cursor = page(watcher, None, 1_000)
    assert cursor is not None
    assert len(cids) * 4_000 <= view_of(watcher).page_bytes_max
    assert sorted(set(every_page(watcher))) == sorted(world.roster("lobby"))


def test_nobody_is_missed_by_who_goes_on_with_a_cursor_when_a_room_becomes_crowded(world: World) -> None:
    watcher = watching(world, FULL_MAX)
    first, cursor = page(watcher, None)
    world.populate("lobby", 30, start=FULL_MAX)
    world.settle()
    assert not view_of(watcher).holds_roster
    assert {*first, *every_page(watcher, cursor)} == set(world.roster("lobby"))


def test_nobody_is_missed_by_who_goes_on_with_a_cursor_when_a_room_has_a_roster_again(world: World) -> None:
    watcher = watching(world, FULL_MAX + 1)
    first, cursor = page(watcher, None)
    world.remove("lobby", [f"bot-{n:05}" for n in range(5)])
    world.settle()
    assert view_of(watcher).holds_roster
    assert {*first, *every_page(watcher, cursor)} >= set(world.roster("lobby"))


@pytest.mark.parametrize("cursor", ["/", "/scan:", "/scan:-1", "/scan:1e9", "/scan:" + "9" * 21, "/before:x"])
def test_a_cursor_that_no_page_has_given_is_refused(world: World, cursor: str) -> None:
    watcher = watching(world, 30)
    answer = watcher.ask(Members("lobby", cursor))
    assert isinstance(answer, Error)
    assert (answer.code, answer.room) == ("bad_message", "lobby")


def test_who_joins_a_crowd_is_in_its_number_and_hears_no_roster(world: World) -> None:
    watching(world, 30)
    ann = world.connect("ann")
    sync = ann.ask(Join("lobby"))
    assert isinstance(sync, Sync)
    assert (sync.mode, sync.you, sync.count, sync.members) == ("count", True, 31, [])
    ann.ask(Leave("lobby"))
    assert len(world.roster("lobby")) == 30


def test_a_member_of_a_crowd_that_lingers_is_kept_until_it_has_left(world: World) -> None:
    """Where the store is wiped nobody else would bring it back."""
    view = view_of(watching(world, 30))
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    cid = ann.session.cid
    ann.drop()
    world.settle()
    assert [record.member.cid for record in view.own.all_absent()] == [cid]
    world.pass_ms(60_000)
    assert (view.own.all_absent(), view.members) == ([], 30)


@pytest.mark.parametrize(("reason", "heard"), [("timeout", []), ("left", ["late"])])
def test_messages_of_members_that_were_taken_for_dead_are_not_delivered_in_a_crowd(
    world: World, reason: Reason, heard: list[str]
) -> None:
    """Whoever left by itself may still watch."""
    watcher = watching(world, 30)
    view = view_of(watcher)
    view.receive_event(
        Delta(view.feed.generation, view.feed.seq + 1, 29, 29, leaves=(MemberLeave("b", "b", reason),))
    )
    view.receive_event(Publication("b", "b", 1, document("late"), 1))
    world.settle()
    assert [message.data for message in watcher.take() if isinstance(message, Published)] == heard


def test_who_may_have_come_back_unheard_is_delivered_in_a_crowd(world: World) -> None:
    """Simulated: seed 1000000017, where the delta with a join was lost, and the numbers were read."""
    watcher = watching(world, 30)
    view = view_of(watcher)
    view.receive_event(
        Delta(view.feed.generation, view.feed.seq + 1, 29, 29, leaves=(MemberLeave("b", "b", "timeout"),))
    )
    view.feed.load()
    view.receive_event(Publication("b", "b", 1, document("back"), 1))
    world.settle()
    assert [message.data for message in watcher.take() if isinstance(message, Published)] == ["back"]


def test_messages_of_an_earlier_life_are_not_delivered_in_a_crowd(world: World) -> None:
    watcher = watching(world, 30)
    view = view_of(watcher)
    view.receive_event(Delta(view.feed.generation, view.feed.seq + 1, 31, 31, joins=(record("b", 2),)))
    for epoch in (1, 2):
        view.receive_event(Publication("b", "b", epoch, document(epoch), 1))
    world.settle()
    assert [message.data for message in watcher.take() if isinstance(message, Published)] == [2]


# --- the numbers of a crowd ---


def record(cid: str, epoch: int = 1, user: str = "") -> Record:
    return Record(Member(cid, user or cid, None, None, 1, 1), epoch, "A")


def test_while_a_node_is_isolated_others_members_are_counted_as_they_were() -> None:
    crowd = Crowd(MemberCounts(100, 60))
    crowd.isolate([record("a"), record("b", user="a")])
    assert crowd.counts == (100, 60)
    crowd.note_counts(1, 1)
    assert crowd.counts == (99, 60)
    crowd.rejoin()
    assert crowd.counts == (99, 60)
    crowd.note_counts(80, 50)
    assert crowd.counts == (80, 50)


def test_the_numbers_do_not_fall_while_nodes_enter_their_members_again() -> None:
    crowd = Crowd(MemberCounts(100, 60))
    crowd.hold(MemberCounts(100, 60))
    crowd.note_counts(3, 2)
    assert (crowd.counts, crowd.is_held) == ((100, 60), True)
    crowd.note_counts(110, 55)
    assert crowd.counts == (110, 60)
    assert crowd.release()
    assert (crowd.counts, crowd.is_held) == ((110, 55), False)
    assert not crowd.release()


def test_numbers_that_have_changed_back_or_not_at_all_are_known() -> None:
    crowd = Crowd(MemberCounts(100, 60))
    assert crowd.changed
    crowd.changed = False
    crowd.note_counts(100, 60)
    assert not crowd.changed
    crowd.note_counts(101, 60)
    assert crowd.changed


def test_a_bounded_number_of_resumed_connections_is_remembered() -> None:
    crowd = Crowd(MemberCounts(100, 60))
    crowd.note_joins([record("fresh"), record("old", 5)])
    assert [crowd.is_outdated("old", epoch) for epoch in (4, 5, 6)] == [True, False, False]
    assert not crowd.is_outdated("fresh", 1)
    crowd.note_joins([record(f"c{n}", 2) for n in range(EPOCHS_MAX)])
    assert len(crowd._epochs) == EPOCHS_MAX
    assert not crowd.is_outdated("old", 4)
