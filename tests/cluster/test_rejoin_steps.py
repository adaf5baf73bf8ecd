"""The steps of a rejoin one by one, each done alone by a node on virtual time."""

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from presence_server import faults
from presence_server.cluster.connectivity import Effect, HistoryBroken, Lost, Restored, State
from presence_server.cluster.parts import Concerned, Part
from presence_server.cluster.reentry import ANNOUNCED_AFTER_MS, ReentryResult, RoomReentry
from presence_server.cluster.rejoin import Rejoin
from presence_server.edge.timeouts import SLICE_MS
from presence_server.presence.operations import Done, Linger
from presence_server.protocol.messages import Join, Leave, Update, Watch, Welcome
from presence_server.rooms.event_codec import RoomEventCodec
from presence_server.rooms.events import NodeReentered
from presence_server.rooms.participant import Membership
from presence_server.session.session import Session
from tests.cluster.test_rejoin import ROOM, Pair, changes, two_nodes
from tests.simulation.keyspace import raw
from tests.simulation.test_world import Recorder
from tests.simulation.world import World

if TYPE_CHECKING:
    from presence_server.presence.roster import Snapshot

pair = pytest.fixture(two_nodes, name="pair")
ANSWERED_MS = 60
"""In which the store answers, and there is no heartbeat."""


def do(pair: Pair, step: Any, *arguments: Any, **named: Any) -> None:
    """Do one step as the node would."""
    pair.here.context.copy().run(step, *arguments, **named)


def only(pair: Pair, *tags: str) -> Concerned:
    """Return some tags as those of the part that is concerned; all others are of another."""
    (part,) = pair.parts
    other = Part(part.link, part.connectivity.copy())
    return Concerned([part], lambda tag: part if tag in tags else other, whole=False)


def welcome(member: Recorder) -> Welcome:
    first = member.messages[0]
    assert isinstance(first, Welcome)
    return first


def session_of(pair: Pair, member: Recorder) -> Session:
    return pair.rejoin._claims._sessions[welcome(member).cid]


def membership_of(pair: Pair, member: Recorder) -> Membership:
    return pair.view.memberships[welcome(member).cid]


def entering(pair: Pair, outstanding: int = 1) -> RoomReentry:
    """Return the room as one that is being entered, for so many answers."""
    rejoining = pair.rejoin._reentry._by_room[ROOM] = RoomReentry(pair.view)
    rejoining.is_sending, rejoining.outstanding = False, outstanding
    return rejoining


def listen(pair: Pair) -> None:
    """Have the store keep what it is asked from now on, right after a heartbeat."""
    heartbeat_ms = pair.here.presence.heartbeat_ms
    pair.world.run_for(heartbeat_ms + 300 - pair.world.now_ms % heartbeat_ms)
    pair.world.store.record = []


def entered(pair: Pair) -> list[str]:
    """Return who has been entered since then; only that names a user."""
    assert pair.world.store.record is not None
    pair.world.run_for(ANSWERED_MS)
    asked = [b"".join(map(raw, each.command)) for each in pair.world.store.record]
    return [user for user in ("ann", "bob", "carl") if any(b"\xa3" + user.encode() in each for each in asked)]


def joined(pair: Pair, user: str, message: Join | Watch) -> Recorder:
    member = Recorder(pair.here, user)
    member.socket.send(message)
    pair.world.run_for(500)
    return member


def test_a_room_that_begins_to_be_entered_waits_for_nothing_yet(pair: Pair) -> None:
    fresh = RoomReentry(pair.view)
    assert (fresh.view, fresh.outstanding, fresh.generation) == (pair.view, 0, 0)
    assert fresh.result is ReentryResult.COMPLETE


def test_a_room_goes_on_from_memory_the_moment_that_contact_ends(pair: Pair) -> None:
    do(pair, pair.rejoin.on, Lost(), pair.parts)
    kept: list[Snapshot] = []
    pair.rejoin._store.snapshot(ROOM, kept.append)
    assert (pair.view.feed.generation, pair.view.feed.seq) == (kept[0].generation, 0)
    assert {record.member.user for record in kept[0].records} == {"ann", "bob"}
    assert not pair.view.feed.loading
    pair.ann.socket.send(Update(ROOM, {"mood": "alone"}))
    while not changes(pair.ann):
        pair.world.run_for(1)
        assert not pair.view.feed.loading, "it was read anew"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_room_is_asked_about_or_read_when_contact_returns_and_memory_keeps_nothing(
    pair: Pair, trusted: bool
) -> None:
    do(pair, pair.rejoin.on, Lost(), pair.parts)
    (part,) = pair.parts
    part.connectivity.trusted, part.connectivity.state = trusted, State.REJOINING
    do(pair, pair.rejoin._read_rooms, only(pair, ROOM))
    assert pair.view.feed.loading
    since: Any = pair.view.feed._state
    assert (type(since).__name__, since.since.trusted) == (
        ("Resuming", True) if trusted else ("Reading", False)
    )
    assert ROOM not in pair.rejoin._store._memory._rooms


def test_who_lingers_or_is_lost_without_a_grace_leaves_an_isolated_node_in_its_time(pair: Pair) -> None:
    carl = joined(pair, "carl", Watch(ROOM))
    dora = joined(pair, "dora", Join(ROOM))
    dora.socket.reset()
    pair.world.run_for(1_500)
    pair.ann.socket.reset()
    pair.world.run_for(100)
    pair.rejoin._lingers.discard(welcome(pair.ann).cid)
    carl.messages.clear()
    pair.cut(60_000)
    left = []
    for ms in (1_000, 1_500, 1_000):
        pair.world.run_for(ms)
        left.append([(leave.user, leave.reason) for diff in changes(carl) for leave in diff.leaves])
    assert left == [[], [("dora", "timeout")], [("dora", "timeout"), ("ann", "timeout")]]


def test_who_was_resumed_elsewhere_before_it_was_entered_is_found_there_and_the_rest_is_not_waited_for(
    pair: Pair,
) -> None:
    membership = membership_of(pair, pair.ann)
    pair.ann.socket.reset()
    pair.world.run_for(100)
    assert pair.view.own.absent(membership.cid)
    listen(pair)
    rejoining = entering(pair)
    do(pair, pair.rejoin._reentry.enter_member, rejoining, membership)
    assert rejoining.outstanding == 1, "the membership has ended, and its member is entered"
    assert entered(pair) == ["ann"]
    assert (rejoining.outstanding, rejoining.result) == (0, ReentryResult.COMPLETE)


def test_a_member_without_a_connection_in_the_room_is_entered_where_it_lingers_or_has_not_joined_again(
    pair: Pair,
) -> None:
    (own,) = [record for record in pair.view.roster.records.values() if record.member.user == "ann"]
    (others,) = [record for record in pair.view.roster.records.values() if record.member.user == "bob"]
    rejoining = entering(pair, 0)
    do(pair, pair.rejoin._reentry._enter_absent, rejoining, others)
    assert rejoining.outstanding == 0, "nobody here has that connection"

    listen(pair)
    rejoining = entering(pair, 0)
    do(pair, pair.rejoin._reentry._enter_absent, rejoining, own)
    assert rejoining.outstanding == 1, "its connection is here"
    assert entered(pair) == ["ann"]
    assert rejoining.outstanding == 0

    pair.ann.socket.reset()
    pair.world.run_for(100)
    rejoining = entering(pair, 0)
    do(pair, pair.rejoin._reentry._enter_absent, rejoining, replace(own, epoch=own.epoch + 1))
    assert rejoining.outstanding == 0, "an earlier life lingers"
    do(pair, pair.rejoin._reentry._enter_absent, rejoining, own)
    assert rejoining.outstanding == 1, "it lingers"
    assert isinstance(pair.rejoin._lingers.rest_of(own.member.cid, ROOM), Linger)


def test_a_part_is_looked_after_until_nothing_follows_from_time(pair: Pair) -> None:
    (part,) = pair.parts
    unresolved = pair.rejoin._parts.unresolved
    unresolved.clear()
    do(pair, pair.rejoin.on, Lost(), pair.parts)
    assert list(unresolved) == [part]
    do(pair, pair.rejoin.check)
    assert list(unresolved) == [part]
    part.connectivity.state = State.CONNECTED
    part.connectivity._provisional_until_ms = None
    do(pair, pair.rejoin.check)
    assert list(unresolved) == []


def test_what_was_not_sent_is_given_up_when_contact_ends(pair: Pair) -> None:
    given_up: list[Concerned] = []
    pair.rejoin._give_up_unsent = given_up.append
    concerned = only(pair, ROOM)
    do(pair, pair.rejoin._isolate, concerned)
    assert given_up == [concerned]


def test_who_says_that_all_are_there_again_says_into_which_generation(pair: Pair) -> None:
    own = pair.view.roster.records[welcome(pair.ann).cid]
    assert announced(pair, (7, 7)) == [NodeReentered(own.node, 7)]


def test_who_enters_a_room_that_is_wiped_meanwhile_enters_all_again_before_saying_so(pair: Pair) -> None:
    own = pair.view.roster.records[welcome(pair.ann).cid]
    listen(pair)
    store = pair.world.store.roster(ROOM)
    (generation,) = {room.generation for room in pair.world.store.rooms().values()}
    assert announced(pair, (5, 7)) == [NodeReentered(own.node, generation)]
    assert entered(pair) == ["ann"]
    assert pair.world.store.roster(ROOM) == store


def test_who_has_entered_a_store_that_had_lost_rooms_says_so_a_second_later(pair: Pair) -> None:
    own = pair.view.roster.records[welcome(pair.ann).cid]
    (part,) = pair.parts
    part.connectivity.trusted = False
    assert announced(pair, (7, 7)) == []
    pair.world.run_for(ANNOUNCED_AFTER_MS - 2 * ANSWERED_MS)
    assert published(pair) == []
    pair.world.run_for(2 * ANSWERED_MS + SLICE_MS)
    assert published(pair) == [NodeReentered(own.node, 7)]


def test_who_has_asked_to_leave_a_room_is_not_entered_again_before_that_is_answered(pair: Pair) -> None:
    ann = welcome(pair.ann)
    pair.ann.socket.send(Leave(ROOM))
    while ann.cid in pair.view.memberships:
        pair.world.run_for(1)
    do(pair, pair.rejoin.on, Lost(), pair.parts)
    do(pair, pair.rejoin.on, Restored(0, same_server=True), pair.parts)
    pair.world.run_for(ANNOUNCED_AFTER_MS)
    assert [[leave.reason for leave in diff.leaves] for diff in changes(pair.bob)] == [["left"]]
    assert [diff.joins for diff in changes(pair.bob)] == [()]
    assert pair.stored == {"bob"}


def test_a_leave_that_was_not_answered_before_contact_ended_is_told_when_it_returns(pair: Pair) -> None:
    ann = welcome(pair.ann)
    carl = joined(pair, "carl", Watch(ROOM))
    pair.here.link.cut(1_000)
    pair.ann.socket.send(Leave(ROOM))
    while ann.cid in pair.view.memberships:
        pair.world.run_for(1)
    while pair.state is not State.ISOLATED:
        pair.world.run_for(1)
    assert pair.view.members == 1
    pair.world.run_for(50)
    assert pair.stored == {"ann", "bob"}
    pair.come_back(1_000 + 2_000)
    assert pair.stored == {"bob"}
    for member in (carl, pair.bob):
        assert [leave.reason for diff in changes(member) for leave in diff.leaves] == ["left"]


def test_a_member_whose_join_is_under_way_is_entered_again_with_the_state_that_it_brought(pair: Pair) -> None:
    carl = Recorder(pair.here, "carl")
    pair.world.run_for(100)
    carl.socket.send(Join(ROOM, {"n": 1}))
    while welcome(carl).cid not in pair.view.memberships:
        pair.world.run_for(1)
    pair.world.store.flush_all()
    do(pair, pair.rejoin._enter_members, only(pair, ROOM))
    pair.world.store.flush_all()  # what the join itself enters is lost
    do(pair, pair.rejoin._enter_members, only(pair, ROOM))
    pair.world.run_for(500)
    (record,) = [r for cid, r in pair.world.store.roster(ROOM).items() if cid == welcome(carl).cid]
    assert bytes(record.member.state) == b'{"n":1}'


def announced(pair: Pair, generations: tuple[int, int]) -> list[NodeReentered]:
    """Return what is said after two members were entered into these generations of the room."""
    pair.world.store.record = []
    rejoining = entering(pair, 2)
    for generation in generations:
        do(pair, pair.rejoin._reentry._note_answer, rejoining, Done(generation, 1))
    pair.world.run_for(ANSWERED_MS)
    return published(pair)


def published(pair: Pair) -> list[NodeReentered]:
    """Return what has been said since then of members that are there again."""
    assert pair.world.store.record is not None
    channel = pair.world.keys.channel(ROOM)
    events = [
        event
        for each in pair.world.store.record
        for where, payload in each.published
        if where == channel
        for event in RoomEventCodec().unpack(payload)
    ]
    return [event for event in events if isinstance(event, NodeReentered)]


def test_the_log_says_of_how_many_slots_contact_has_ended(pair: Pair) -> None:
    (part,) = pair.parts
    with capture_logs() as logs:
        pair.cut()
        pair.come_back()
    told = [log for log in logs if log["event"] == "connectivity"]
    assert [log["state"] for log in told] == ["isolated", "rejoining", "connected"]
    assert all("slots" not in log for log in told)
    three = [part, *(Part(part.link, part.connectivity.copy()) for _ in range(2))]
    with capture_logs() as logs:
        do(pair, pair.rejoin.on, Lost(), three)
        do(pair, pair.rejoin.on, Lost(), pair.parts)
    said = {"event": "connectivity", "log_level": "info", "state": "isolated", "before": "connected"}
    assert [log for log in logs if log["event"] == "connectivity"] == [said | {"slots": 2}]


def test_each_room_shows_the_staleness_of_its_own_part(pair: Pair) -> None:
    (part,) = pair.parts
    asked: list[str] = []

    def part_of(tag: str) -> Part:
        asked.append(tag)
        return part

    concerned, others = only(pair, ROOM), only(pair, "another")
    pair.rejoin._parts.of = part_of  # type: ignore[method-assign]  # records
    do(pair, pair.rejoin._show_staleness, concerned)
    do(pair, pair.rejoin._show_staleness, others)
    assert asked == [ROOM]


def test_a_node_without_rooms_has_rejoined_at_once() -> None:
    with World(seed=3, nodes=1) as world:
        world.run_for(500)
        rejoin = world.nodes[0].core.backend._rejoin  # type: ignore[attr-defined]  # of a cluster's
        assert isinstance(rejoin, Rejoin)
        parts = list(rejoin._parts.with_link(rejoin._parts.of(ROOM).link))
        world.nodes[0].context.copy().run(rejoin.on, HistoryBroken(), parts)
        assert parts[0].connectivity.state is State.CONNECTED


def test_an_effect_that_fails_is_counted_as_such_and_those_after_it_are_done() -> None:
    with World(seed=3, nodes=2) as world:
        pair = Pair(world)
        done: list[Concerned] = []

        def fail(_: Concerned) -> None:
            raise ZeroDivisionError

        pair.rejoin._effects[Effect.ISOLATE] = fail
        pair.rejoin._effects[Effect.DELIVER_UNSENT] = done.append
        before = faults.counts["connectivity"]
        do(pair, pair.rejoin.on, Lost(), pair.parts)
        assert faults.counts["connectivity"] == before + 1
        assert [list(each.parts) for each in done] == [pair.parts]
        assert done[0].whole
