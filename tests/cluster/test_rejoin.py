"""What a node does when contact ends and returns: whole nodes on virtual time, of one room, seen by their clients."""

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from presence_server import faults
from presence_server.cluster.connectivity import Effect, HistoryBroken, OwnMemberLost, State
from presence_server.cluster.parts import Part
from presence_server.cluster.reentry import ReentryResult, RoomReentry
from presence_server.cluster.rejoin import Rejoin
from presence_server.presence.operations import BROKEN, Linger
from presence_server.protocol.messages import (
    Diff,
    Join,
    Leave,
    Publish,
    Published,
    Resume,
    Stale,
    Update,
    Welcome,
)
from presence_server.rooms.view import View
from tests.simulation.test_world import Recorder
from tests.simulation.world import SCALED, World

ROOM = "lobby"
MOMENT_MS = 3_000
"""So soon a node is back after a short cut."""


class Pair:
    """Two nodes, with a member of one room on each."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.here, self.there = world.nodes
        self.ann, self.bob = Recorder(self.here, "ann"), Recorder(self.there, "bob")
        for member in (self.ann, self.bob):
            member.socket.send(Join(ROOM))
        world.run_for(1_000)
        self.forget()
        assert self.stored == {"ann", "bob"}

    @property
    def rejoin(self) -> Rejoin:
        rejoin = self.here.core.backend._rejoin  # type: ignore[attr-defined]  # of a cluster's
        assert isinstance(rejoin, Rejoin)
        return rejoin

    @property
    def state(self) -> State:
        (part,) = self.parts
        return part.connectivity.state

    @property
    def parts(self) -> list[Part]:
        parts = self.rejoin._parts
        return parts.with_link(parts.of(ROOM).link)

    @property
    def view(self) -> View:
        view = self.here.core.rooms.views.get(ROOM)
        assert view is not None
        return view

    @property
    def stored(self) -> set[str]:
        """Who is in the room that the store keeps."""
        return {record.member.user for record in self.world.store.roster(ROOM).values()}

    def cut(self, ms: float = 300) -> None:
        """Cut this node off for so long, and let it notice."""
        self.here.link.cut(ms)
        self.world.run_for(min(ms, 100))
        assert self.state is State.ISOLATED

    def come_back(self, ms: float = MOMENT_MS) -> None:
        self.world.run_for(ms)
        assert self.state is State.CONNECTED
        assert self.world.faults == []

    def forget(self) -> None:
        """Forget what the clients were told."""
        self.ann.messages = [m for m in self.ann.messages if isinstance(m, Welcome)]
        self.bob.messages = [m for m in self.bob.messages if isinstance(m, Welcome)]


def staleness(member: Recorder) -> list[bool]:
    return [message.stale for message in member.messages if isinstance(message, Stale)]


def changes(member: Recorder) -> list[Diff]:
    return [message for message in member.messages if isinstance(message, Diff)]


def two_nodes() -> Iterator[Pair]:
    """Yield a pair, in which no effect may fail."""
    before = Counter(faults.counts)
    with World(seed=3, nodes=2) as world:
        yield Pair(world)
    assert faults.counts == before, "an effect failed"


pair = pytest.fixture(two_nodes, name="pair")


def test_every_effect_of_the_table_is_carried_out_by_something(pair: Pair) -> None:
    assert set(pair.rejoin._effects) == set(Effect)


def test_a_short_cut_is_told_as_staleness_and_changes_nothing(pair: Pair) -> None:
    pair.cut()
    pair.come_back()
    assert staleness(pair.ann) == [True, False]
    assert (changes(pair.ann), changes(pair.bob), staleness(pair.bob)) == ([], [], [])
    assert (pair.rejoin._reentry._by_room, pair.rejoin._claiming) == ({}, {})
    assert pair.stored == {"ann", "bob"}


def test_what_a_client_does_meanwhile_is_answered_here_and_known_to_all_afterwards(pair: Pair) -> None:
    pair.cut(1_000)
    carl = Recorder(pair.here, "carl")
    pair.world.run_for(100)
    carl.socket.send(Join(ROOM))
    pair.ann.socket.send(Update(ROOM, {"mood": "alone"}))
    pair.ann.socket.send(Publish(ROOM, "hello"))
    pair.world.run_for(200)
    assert carl.names() == {"ann", "bob", "carl"}
    assert [m.data for m in carl.messages if isinstance(m, Published)] == ["hello"]
    assert pair.stored == {"ann", "bob"}
    pair.come_back(4_000)
    assert pair.stored == {"ann", "bob", "carl"}
    (updated,) = [change for diff in changes(pair.bob) for change in diff.updates]
    assert msgspec.json.decode(msgspec.json.encode(updated.state)) == {"mood": "alone"}
    assert [m.user for diff in changes(pair.bob) for m in diff.joins] == ["carl"]


def test_who_joined_when_its_node_heard_nothing_any_more_is_in_the_room_there_and_can_leave_it(
    pair: Pair,
) -> None:
    carl = Recorder(pair.here, "carl")
    pair.world.run_for(100)
    pair.here.link.lose_messages(1.0, 500, rooms_only=True)
    carl.socket.send(Join(ROOM))
    pair.world.run_for(100)
    assert (pair.stored, carl.names()) == ({"ann", "bob", "carl"}, set())
    pair.cut(1_000)
    pair.world.run_for(50)
    assert carl.names() == {"ann", "bob", "carl"}
    carl.socket.send(Leave(ROOM))
    pair.come_back(1_000 + MOMENT_MS)
    assert pair.stored == {"ann", "bob"}
    for member in (pair.ann, pair.bob):
        assert [m.user for diff in changes(member) for m in diff.joins] == ["carl"]
        assert [leave.reason for diff in changes(member) for leave in diff.leaves] == ["left"]


def test_who_resumes_on_an_isolated_node_and_leaves_there_is_gone_when_that_is_back(pair: Pair) -> None:
    first = next(m for m in pair.bob.messages if isinstance(m, Welcome))
    pair.cut(1_000)
    bob = Recorder(pair.here, "bob", resume=first.resume)
    pair.world.run_for(100)
    bob.socket.send(Join(ROOM))
    pair.world.run_for(100)
    bob.socket.send(Leave(ROOM))
    pair.world.run_for(100)
    assert pair.stored == {"ann", "bob"}
    pair.come_back(1_000 + MOMENT_MS)
    assert pair.stored == {"ann"}
    assert (pair.bob.codes, bob.codes) == ([4010], [])


def test_who_is_lost_while_its_node_is_isolated_has_its_grace_and_leaves_everywhere_once(pair: Pair) -> None:
    pair.cut(1_000)
    pair.ann.socket.reset()
    pair.come_back(SCALED.grace_lost_ms + SCALED.heartbeat_ms + 4_000)
    assert pair.stored == {"bob"}
    assert [leave.reason for diff in changes(pair.bob) for leave in diff.leaves] == ["timeout"]


def test_members_are_entered_again_in_a_store_that_came_back_empty(pair: Pair) -> None:
    pair.world.store.restart_empty(500)
    pair.world.run_for(200)
    pair.come_back(SCALED.ttl_ms + SCALED.grace_lost_ms)
    assert pair.stored == {"ann", "bob"}
    assert (changes(pair.ann), changes(pair.bob)) == ([], [])
    assert len(pair.view._provisional) == 0


def test_who_resumed_while_its_node_was_isolated_is_claimed_and_entered_on_return(pair: Pair) -> None:
    (welcome,) = pair.ann.messages
    assert isinstance(welcome, Welcome)
    pair.cut(1_500)
    pair.ann.socket.reset()
    pair.world.run_for(100)
    again = Recorder(pair.here, "ann", resume=welcome.resume)
    pair.world.run_for(100)
    again.socket.send(Join(ROOM))
    pair.world.run_for(200)
    assert len(pair.rejoin._claims.unconfirmed()) == 1
    pair.come_back(5_000)
    assert pair.rejoin._claims.unconfirmed() == []
    (record,) = [r for r in pair.world.store.roster(ROOM).values() if r.member.user == "ann"]
    assert (record.member.cid, record.epoch) == (welcome.cid, 2)
    assert (again.codes, [m for m in again.messages if isinstance(m, Resume)]) == ([], [])
    assert [leave for diff in changes(pair.bob) for leave in diff.leaves] == []


def test_a_second_cut_before_claims_are_answered_leaves_nothing_waiting(pair: Pair) -> None:
    (welcome,) = pair.ann.messages
    assert isinstance(welcome, Welcome)
    pair.cut(1_000)
    pair.ann.socket.reset()
    pair.world.run_for(100)
    again = Recorder(pair.here, "ann", resume=welcome.resume)
    pair.world.run_for(100)
    again.socket.send(Join(ROOM))
    while pair.state is State.ISOLATED:
        pair.world.run_for(5)
    assert list(pair.rejoin._claiming) == [welcome.cid]
    pair.cut(500)
    assert (pair.rejoin._claiming, pair.rejoin._reentry._by_room) == ({}, {})
    pair.come_back(5_000)
    assert pair.stored == {"ann", "bob"}
    assert again.codes == []


def test_what_the_store_lost_is_entered_again_without_an_isolation(pair: Pair) -> None:
    for event in (OwnMemberLost(pair.here.clock.now_ms()), HistoryBroken()):
        pair.here.context.copy().run(pair.rejoin.on, event, pair.parts)
        assert pair.state is State.REJOINING
        assert list(pair.rejoin._reentry._by_room) == [ROOM]
        pair.come_back(1_000)
    assert staleness(pair.ann) == [True, False, True, False]
    assert changes(pair.ann) == []


def test_provisional_members_that_are_not_brought_back_leave_after_a_ttl(pair: Pair) -> None:
    pair.there.freeze()
    pair.world.store.restart_empty(200)
    pair.world.run_for(SCALED.ttl_ms - 1_000)
    assert [leave for diff in changes(pair.ann) for leave in diff.leaves] == []
    pair.world.run_for(SCALED.ttl_ms)
    assert [leave.reason for diff in changes(pair.ann) for leave in diff.leaves] == ["timeout"]


def settled(pair: Pair) -> int:
    """Return how many payloads on the room's channel are not deltas."""
    assert pair.world.store.record is not None
    channel = pair.world.keys.channel(ROOM)
    return sum(
        where == channel and payload[:1] == b"e"
        for recorded in pair.world.store.record
        for where, payload in recorded.published
    )


def test_that_all_members_are_there_again_is_said_when_the_last_is_answered_and_none_has_failed(
    pair: Pair,
) -> None:
    pair.world.store.record = []
    for outcomes, said in (([None, None], 1), ([BROKEN, None], 0), ([None, BROKEN], 0)):
        pair.world.store.record.clear()
        entering = pair.rejoin._reentry._by_room[ROOM] = RoomReentry(pair.view)
        entering.is_sending, entering.outstanding = False, len(outcomes)
        for outcome in outcomes:
            pair.rejoin._reentry._note_answer(entering, outcome)  # type: ignore[arg-type]  # None: an error of another kind
        pair.world.run_for(200)
        assert settled(pair) == said
    late = RoomReentry(pair.view)
    late.outstanding = 1
    pair.rejoin._reentry._note_answer(late, BROKEN)  # of an earlier rejoin
    assert (late.outstanding, late.result) == (1, ReentryResult.COMPLETE)


def test_members_without_a_connection_are_let_go_with_the_grace_that_they_have_left(pair: Pair) -> None:
    pair.ann.socket.reset()
    pair.world.run_for(1_000)
    pair.cut(500)
    (record,) = pair.view.own.all_absent()
    linger = pair.rejoin._lingers.rest_of(record.member.cid, ROOM)
    assert isinstance(linger, Linger)
    pair.come_back(1_500)
    assert pair.stored == {"ann", "bob"}
    pair.world.run_for(SCALED.grace_lost_ms)
    assert pair.stored == {"bob"}


def test_a_room_that_nobody_watches_any_more_is_not_waited_for(pair: Pair) -> None:
    pair.here.context.copy().run(pair.rejoin.on, HistoryBroken(), pair.parts)
    view = pair.view
    pair.rejoin._reentry._by_room["gone"] = waiting = RoomReentry(view)
    waiting.outstanding = 1
    pair.come_back(4_000)
    assert pair.rejoin._reentry._by_room == {}


def test_who_left_on_another_node_during_a_cut_has_left_on_return(pair: Pair) -> None:
    pair.cut(SCALED.grace_clean_ms + 1_000)
    pair.bob.socket.close()
    pair.come_back(SCALED.grace_clean_ms + 1_000 + MOMENT_MS)
    assert [leave.user for diff in changes(pair.ann) for leave in diff.leaves] == ["bob"]
    assert pair.stored == {"ann"}


def test_a_member_that_lingers_when_its_node_is_cut_off_leaves_here_when_its_grace_is_over(
    pair: Pair,
) -> None:
    carl = Recorder(pair.here, "carl")
    carl.socket.send(Join(ROOM))
    pair.world.run_for(500)
    pair.ann.socket.reset()
    pair.world.run_for(1_000)
    pair.cut(SCALED.grace_lost_ms + 2_000)
    pair.world.run_for(SCALED.grace_lost_ms)
    assert pair.state is State.ISOLATED
    assert [leave.user for diff in changes(carl) for leave in diff.leaves] == ["ann"]


def test_a_watcher_that_was_resumed_elsewhere_during_a_cut_is_closed_on_return(pair: Pair) -> None:
    carl = Recorder(pair.here, "carl")
    pair.world.run_for(500)
    (welcome,) = carl.messages
    assert isinstance(welcome, Welcome)
    pair.cut(1_000)
    again = Recorder(pair.there, "carl", resume=welcome.resume)
    pair.come_back(4_000)
    assert (carl.codes, again.codes) == ([4010], [])


def test_a_member_that_lingers_is_entered_in_a_store_that_came_back_empty(pair: Pair) -> None:
    pair.ann.socket.reset()
    pair.world.run_for(200)
    pair.world.store.restart_empty(300)
    pair.world.run_for(1_500)
    assert pair.stored == {"ann", "bob"}
    pair.world.run_for(SCALED.grace_lost_ms + SCALED.ttl_ms)
    assert pair.stored == {"bob"}
    assert [leave.reason for diff in changes(pair.bob) for leave in diff.leaves] == ["timeout"]
