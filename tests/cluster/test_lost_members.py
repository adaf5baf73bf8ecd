"""Members that the store has lost, and what becomes of them when they leave, are resumed or linger meanwhile."""

import pytest

from presence_server.protocol.messages import Join, Leave, Update, Watch
from tests.cluster.test_rejoin import ROOM, Pair, changes, two_nodes
from tests.cluster.test_rejoin_steps import joined, welcome
from tests.simulation.test_world import Recorder
from tests.simulation.world import SCALED

pair = pytest.fixture(two_nodes, name="pair")


def test_who_leaves_before_it_is_noticed_that_the_store_has_lost_it_has_left_at_once(pair: Pair) -> None:
    carl = joined(pair, "carl", Watch(ROOM))
    pair.world.store.flush_all()
    pair.ann.socket.send(Leave(ROOM))
    pair.world.run_for(200)
    assert [(leave.user, leave.reason) for diff in changes(carl) for leave in diff.leaves] == [
        ("ann", "left")
    ]
    pair.world.run_for(SCALED.ttl_ms)
    assert len(changes(carl)) == 1
    assert pair.stored == {"bob"}


def test_a_provisional_member_that_is_resumed_here_has_its_version_and_the_time_of_its_join_still(
    pair: Pair,
) -> None:
    for mood in ("fine", "busy"):
        pair.bob.socket.send(Update(ROOM, {"mood": mood}))
    pair.world.run_for(500)
    before = pair.view.roster.records[welcome(pair.bob).cid].member
    assert before.v == 3
    pair.forget()
    pair.there.freeze()
    pair.world.store.flush_all()
    while not pair.view.is_provisional(before.cid):
        pair.world.run_for(10)
    again = Recorder(pair.here, "bob", resume=welcome(pair.bob).resume)
    pair.world.run_for(100)
    again.socket.send(Join(ROOM))
    pair.world.run_for(SCALED.heartbeat_ms)
    stored = pair.world.store.roster(ROOM)[before.cid].member
    assert (stored.v, stored.at, stored.state) == (before.v, before.at, before.state)
    assert changes(pair.ann) == []
    assert again.codes == []


def test_a_member_that_lingers_has_one_grace_however_often_its_node_returns(pair: Pair) -> None:
    carl = joined(pair, "carl", Watch(ROOM))
    pair.ann.socket.reset()
    for _ in range(3):
        pair.world.run_for(SCALED.grace_lost_ms // 5)
        pair.cut(100)
    assert changes(carl) == []
    pair.world.run_for(SCALED.grace_lost_ms * 3 // 5)
    assert [(leave.user, leave.reason) for diff in changes(carl) for leave in diff.leaves] == [
        ("ann", "timeout")
    ]
