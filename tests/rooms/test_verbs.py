"""Every verb of a room, and every way in which it is refused."""

from typing import Any

import pytest
from msgspec import structs

from presence_server.config.settings import ACTIONS, Action, LimitsSettings, RoomSettings
from presence_server.presence.roster import Delta
from presence_server.protocol.messages import (
    ClientMessage,
    Diff,
    Error,
    Join,
    Leave,
    Members,
    Ok,
    Page,
    Publish,
    Published,
    SendSignal,
    ServerMessage,
    Sync,
    Update,
    Watch,
)
from presence_server.rooms.views import IDLE_MS
from tests.support.recording import members_in
from tests.support.world import SWEEP_MS, Client, World

VERBS: dict[str, Any] = {
    "join": Join,
    "watch": Watch,
    "leave": Leave,
    "update": lambda room: Update(room, {}),
    "publish": lambda room: Publish(room, data=1),
    "signal": lambda room: SendSignal(room, "k", 1),
    "members": Members,
}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> Client:
    return world.connect("ann")


@pytest.fixture
def bob(world: World) -> Client:
    """Watches the lobby throughout."""
    bob = world.connect("bob")
    bob.ask(Watch("lobby"))
    return bob


def refused(answer: ServerMessage) -> Error:
    assert isinstance(answer, Error), answer
    return answer


def synced(answer: ServerMessage) -> Sync:
    assert isinstance(answer, Sync), answer
    return answer


# --- join, watch, leave ---


def test_joining_again_with_another_state_is_an_update(ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    bob.take()
    sync = synced(ann.ask(Join("lobby", state={"x": 2})))
    assert (members_in(sync)[ann.cid].state, members_in(sync)[ann.cid].v) == ({"x": 2}, 2)
    (diff,) = bob.take_only(Diff)
    assert [(update.cid, update.v) for update in diff.updates] == [(ann.cid, 2)]
    assert diff.joins == ()


@pytest.mark.parametrize("again", [Join("lobby"), Join("lobby", state={"x": 1})])
def test_joining_again_with_an_equal_or_no_state_is_no_event(ann: Client, bob: Client, again: Join) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    bob.take()
    sync = synced(ann.ask(again))
    assert members_in(sync)[ann.cid].v == 1
    assert bob.take() == []


def test_who_watches_does_not_appear(world: World, ann: Client, bob: Client) -> None:
    sync = synced(ann.ask(Watch("lobby")))
    assert (sync.you, sync.count, sync.members) == (False, 0, [])
    assert bob.take() == []
    assert world.roster("lobby") == {}


def test_a_watcher_can_join(ann: Client, bob: Client) -> None:
    ann.ask(Watch("lobby", mode="count"))
    sync = synced(ann.ask(Join("lobby", state={"x": 1}, mode="full")))
    assert (sync.you, sync.mode, list(members_in(sync))) == (True, "full", [ann.cid])
    assert ann.take_only(Diff) == []
    (diff,) = bob.take_only(Diff)
    assert [member.cid for member in diff.joins] == [ann.cid]


def test_a_member_that_watches_stays_a_member(world: World, ann: Client) -> None:
    ann.ask(Join("lobby"))
    assert synced(ann.ask(Watch("lobby"))).you
    assert ann.cid in world.roster("lobby")


def test_leaving_ends_both(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby"))
    bob.take()
    assert isinstance(ann.ask(Leave("lobby")), Ok)
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.user, left.reason) for left in diff.leaves] == [(ann.cid, "ann", "left")]
    bob.ask(Publish("lobby", data=1))
    assert ann.take() == []
    assert refused(ann.ask(Leave("lobby"))).code == "not_joined"
    assert world.roster("lobby") == {}


def test_a_watcher_that_leaves_is_no_event(ann: Client, bob: Client) -> None:
    ann.ask(Watch("lobby"))
    assert isinstance(ann.ask(Leave("lobby")), Ok)
    assert bob.take() == []


def test_who_left_can_join_anew(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    ann.ask(Update("lobby", {"x": 2}))
    ann.ask(Leave("lobby"))
    world.pass_ms(5)
    member = members_in(synced(ann.ask(Join("lobby"))))[ann.cid]
    assert (member.state, member.v, member.at) == ({}, 1, world.clock.wall_ms())


# --- update ---


def test_versions_count_from_one_by_one(ann: Client) -> None:
    ann.ask(Join("lobby"))
    versions = []
    for n in range(3):
        answer = ann.ask(Update("lobby", {"n": n}))
        assert isinstance(answer, Ok)
        versions.append(answer.v)
    assert versions == [2, 3, 4]


def test_an_equal_state_is_an_update_too(ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    bob.take()
    answer = ann.ask(Update("lobby", {"x": 1}))
    assert isinstance(answer, Ok)
    assert answer.v == 2
    assert [update.v for diff in bob.take_only(Diff) for update in diff.updates] == [2]


def test_an_update_of_another_version_is_a_conflict(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby"))
    assert isinstance(ann.ask(Update("lobby", {"x": 1}, if_version=1)), Ok)
    bob.take()
    for wrong in (0, 1, 3):
        error = refused(ann.ask(Update("lobby", {"x": 9}, if_version=wrong)))
        assert (error.code, error.v, error.room) == ("conflict", 2, "lobby")
    assert world.roster("lobby")[ann.cid].state == {"x": 1}
    assert bob.take() == []


def test_a_watcher_has_no_state_to_update(ann: Client) -> None:
    ann.ask(Watch("lobby"))
    assert refused(ann.ask(Update("lobby", {}))).code == "not_joined"


# --- publish, signal, members ---


def test_a_message_has_its_sender_and_time(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby"))
    bob.take()
    answer = ann.ask(Publish("lobby", data={"text": "hello"}))
    assert isinstance(answer, Ok)
    now_ms = world.clock.wall_ms()
    assert answer.at == now_ms
    assert bob.take() == [Published("lobby", ann.cid, "ann", {"text": "hello"}, now_ms)]


def test_a_watcher_may_publish(ann: Client, bob: Client) -> None:
    ann.ask(Watch("lobby"))
    assert isinstance(ann.ask(Publish("lobby", data=None)), Ok)
    assert [message.data for message in bob.take_only(Published)] == [None]


def test_a_signal_has_no_reply(ann: Client) -> None:
    ann.ask(Join("lobby"))
    ann.send(SendSignal("lobby", "cursor", 1, id=77))
    assert ann.take() == []


def test_a_signals_key_has_an_end(ann: Client) -> None:
    ann.ask(Join("lobby"))
    ann.send(SendSignal("lobby", "k" * 128, 1, id=1))
    assert ann.take() == []
    assert refused(ann.ask(SendSignal("lobby", "k" * 129, 1))).code == "bad_message"


def test_a_page_is_asked_for_in_any_mode(ann: Client) -> None:
    ann.ask(Join("lobby", mode="none"))
    page = ann.ask(Members("lobby", limit=1))
    assert isinstance(page, Page)
    assert (page.room, list(members_in(page)), page.cursor) == ("lobby", [ann.cid], None)


# --- refusals ---


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("room", ["", "a b", "x" * 165, "caf\u00e9", "a\n", "a*"])
def test_what_cannot_be_a_room_is_invalid(ann: Client, verb: str, room: str) -> None:
    assert refused(ann.ask(VERBS[verb](room))).code == "invalid_room"


@pytest.mark.parametrize("room", ["a", "x" * 164, "A-z_0=9@,.;:/+"])
def test_what_can_be_a_room_is_one(ann: Client, room: str) -> None:
    assert synced(ann.ask(Join(room))).room == room


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"join", "watch"}))
def test_who_is_not_in_a_room_can_only_join_or_watch(ann: Client, verb: str) -> None:
    error = refused(ann.ask(VERBS[verb]("lobby")))
    assert (error.code, error.room) == ("not_joined", "lobby")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_rooms_rules_forbid_what_they_do_not_allow(action: Action) -> None:
    allowed = [other for other in ACTIONS if other != action]
    world = World(rooms=[RoomSettings(pattern="ruled-*", allow=allowed)])
    ann = world.connect("ann")
    if action != "join":
        ann.ask(Join("ruled-1"))
    error = refused(ann.ask(VERBS[action]("ruled-1")))
    assert (error.code, error.room) == ("forbidden", "ruled-1")
    synced(ann.ask(Join("free")))
    ann.send(VERBS[action]("free"))
    assert ann.take_only(Error) == []


def test_a_new_state_by_joining_again_needs_the_right_to_update() -> None:
    world = World(rooms=[RoomSettings(allow=["join"])])
    ann = world.connect("ann")
    synced(ann.ask(Join("lobby", state={"x": 1})))
    synced(ann.ask(Join("lobby", state={"x": 1})))
    assert refused(ann.ask(Join("lobby", state={"x": 2}))).code == "forbidden"
    assert world.roster("lobby")[ann.cid].state == {"x": 1}


def test_the_first_pattern_decides() -> None:
    world = World(rooms=[RoomSettings(pattern="a*", allow=["watch"]), RoomSettings(pattern="ab*")])
    ann = world.connect("ann")
    assert refused(ann.ask(Join("abc"))).code == "forbidden"
    synced(ann.ask(Join("b")))


@pytest.mark.parametrize(
    "request_", [Join("lobby", state={"x": "y" * 100}), Update("lobby", {"x": "y" * 100})]
)
def test_a_state_that_is_too_large_changes_nothing(request_: ClientMessage) -> None:
    world = World(limits=LimitsSettings(state_bytes=20))
    ann = world.connect("ann")
    if isinstance(request_, Update):
        ann.ask(Join("lobby"))
    error = refused(ann.ask(request_))
    assert (error.code, error.room) == ("too_large", "lobby")
    assert all(member.v == 1 and member.state == {} for member in world.roster("lobby").values())


def test_a_state_of_exactly_the_limit_is_taken() -> None:
    world = World(limits=LimitsSettings(state_bytes=len('{"x":"yy"}')))
    ann = world.connect("ann")
    synced(ann.ask(Join("lobby", state={"x": "yy"})))
    assert refused(ann.ask(Update("lobby", {"x": "yyy"}))).code == "too_large"


def test_one_connection_is_in_so_many_rooms_and_no_more() -> None:
    world = World(limits=LimitsSettings(rooms=2))
    ann = world.connect("ann")
    synced(ann.ask(Join("a")))
    synced(ann.ask(Watch("b")))
    for request in (Join("c"), Watch("c")):
        error = refused(ann.ask(request))
        assert (error.code, error.room) == ("too_many_rooms", "c")
    synced(ann.ask(Join("b")))
    ann.ask(Leave("a"))
    synced(ann.ask(Join("c")))
    assert world.roster("c").keys() == {ann.cid}


def test_a_full_room_is_for_watching() -> None:
    world = World(rooms=[RoomSettings(members_max=1)])
    ann, bob = world.connect("ann"), world.connect("bob")
    synced(ann.ask(Join("lobby")))
    error = refused(bob.ask(Join("lobby")))
    assert (error.code, error.room) == ("room_full", "lobby")
    assert refused(bob.ask(Publish("lobby", data=1))).code == "not_joined"
    assert not synced(bob.ask(Watch("lobby"))).you
    assert refused(bob.ask(Join("lobby"))).code == "room_full"
    assert isinstance(bob.ask(Publish("lobby", data=1)), Ok)
    ann.ask(Leave("lobby"))
    assert synced(bob.ask(Join("lobby"))).you


def test_a_refused_join_changes_nothing() -> None:
    world = World(rooms=[RoomSettings(members_max=1)])
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("lobby"))
    bob.ask(Watch("lobby", mode="count"))
    refused(bob.ask(Join("lobby", mode="full")))
    assert synced(bob.ask(Watch("lobby"))).mode == "count"


def test_a_room_refused_leaves_nothing_behind() -> None:
    world = World(rooms=[RoomSettings(pattern="full", members_max=1), RoomSettings(pattern="no", allow=[])])
    ann, bob = world.connect("ann"), world.connect("bob")
    ann.ask(Join("full"))
    refused(bob.ask(Join("full")))
    refused(bob.ask(Join("no")))
    refused(bob.ask(Watch("no")))
    assert bob.session.participant.memberships == {}
    ann.ask(Leave("full"))
    world.pass_ms(IDLE_MS + SWEEP_MS)
    assert (len(world.rooms.views), len(world.bus), len(world.store)) == (0, 0, 0)


def test_a_request_without_an_id_is_answered_without_one(ann: Client) -> None:
    ann.send(Join("lobby"), Leave("lobby"), Leave("lobby"), Members("lobby"))
    kinds = [(type(message), isinstance(getattr(message, "id", None), int)) for message in ann.take()]
    assert kinds == [(Error, False), (Error, False)] or kinds[-2:] == [(Error, False), (Error, False)]
    assert (Ok, False) not in kinds


def test_a_room_goes_a_while_after_the_last_one(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby"))
    assert (len(world.rooms.views), len(world.bus)) == (1, 1)
    ann.ask(Leave("lobby"))
    bob.ask(Leave("lobby"))
    world.pass_ms(IDLE_MS - SWEEP_MS)
    assert (len(world.rooms.views), len(world.bus), len(world.store)) == (1, 1, 0)
    world.pass_ms(2 * SWEEP_MS)
    assert (len(world.rooms.views), len(world.bus)) == (0, 0)


def test_who_comes_back_soon_keeps_the_room(world: World, ann: Client) -> None:
    ann.ask(Join("lobby"))
    ann.ask(Leave("lobby"))
    world.pass_ms(IDLE_MS - SWEEP_MS)
    ann.ask(Join("lobby"))
    world.pass_ms(2 * IDLE_MS)
    ann.ask(Update("lobby", {"x": 1}))
    assert [update.state for diff in ann.take_only(Diff) for update in diff.updates] == [{"x": 1}]


# --- what a store that lost its last writes says ---


def test_a_member_does_not_go_back_to_what_it_was_before(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    (before,) = world.snapshot("lobby").records
    ann.ask(Update("lobby", {"x": 2}))
    bob.take()
    snapshot = world.snapshot("lobby")
    world.bus.publish("lobby", Delta(snapshot.generation, snapshot.seq + 1, 1, 1, joins=(before,)))
    world.settle()
    assert bob.take() == []
    synced(bob.ask(Watch("lobby")))
    view = world.rooms.views.get("lobby")
    assert view is not None
    assert (view.roster.records[ann.cid].member.v, view.feed.seq) == (2, snapshot.seq + 1)


def test_a_member_that_came_back_begins_anew(world: World, ann: Client, bob: Client) -> None:
    ann.ask(Join("lobby", state={"x": 1}))
    ann.ask(Update("lobby", {"x": 2}))
    (before,) = world.snapshot("lobby").records
    snapshot = world.snapshot("lobby")
    anew = structs.replace(before, member=structs.replace(before.member, v=1, at=before.member.at + 1))
    world.bus.publish("lobby", Delta(snapshot.generation, snapshot.seq + 1, 1, 1, joins=(anew,)))
    world.settle()
    view = world.rooms.views.get("lobby")
    assert view is not None
    assert view.roster.records[ann.cid].member.v == 1
