"""The claims of connections in a rejoin: members and messages that wait for them, and what they are compared with."""

from typing import Any

import pytest

from presence_server.cluster.connectivity import Lost
from presence_server.cluster.reentry import RoomReentry
from presence_server.protocol.messages import Join, Publish, Published, Watch
from presence_server.rooms.participant import Membership
from presence_server.session.session import Session
from tests.cluster.test_rejoin import ROOM, Pair, two_nodes
from tests.cluster.test_rejoin_steps import (
    ANSWERED_MS,
    do,
    entered,
    entering,
    joined,
    listen,
    membership_of,
    only,
    session_of,
    welcome,
)
from tests.simulation.test_world import Recorder

pair = pytest.fixture(two_nodes, name="pair")


def test_rooms_of_another_part_are_entered_still_when_the_part_of_a_claim_is_lost(pair: Pair) -> None:
    membership = membership_of(pair, pair.ann)
    listen(pair)
    rejoining = entering(pair)
    pair.rejoin._claiming = {membership.cid: [(rejoining, membership)], "other": []}
    do(pair, pair.rejoin._isolate, only(pair, membership.cid))
    assert pair.rejoin._claiming == {"other": []}
    assert pair.rejoin._reentry._by_room == {ROOM: rejoining}
    assert entered(pair) == ["ann"]
    assert rejoining.outstanding == 0


def test_who_waits_for_its_claim_in_a_room_that_is_entered_anew_waits_in_the_new_way_alone(
    pair: Pair,
) -> None:
    pair.ann.socket.send(Join("other"))
    pair.world.run_for(500)
    membership = membership_of(pair, pair.ann)
    view = pair.here.core.rooms.views.get("other")
    assert view is not None
    elsewhere, before = RoomReentry(view), entering(pair)
    in_other = view.memberships[membership.cid]
    pair.rejoin._reentry._by_room["other"] = elsewhere
    pair.rejoin._claiming[membership.cid] = waiting = [(before, membership), (elsewhere, in_other)]
    do(pair, pair.rejoin._enter_members, only(pair, ROOM))
    after = pair.rejoin._reentry._by_room[ROOM]
    assert after is not before
    assert pair.rejoin._reentry._by_room["other"] is elsewhere
    assert waiting == [(elsewhere, in_other), (after, membership)]
    assert after.outstanding == 2, "the room, and its member"
    pair.world.run_for(ANSWERED_MS)
    assert after.outstanding == 1, "the member's claim is not answered"


def claims(pair: Pair, member: Recorder) -> list[str]:
    """Return the commands since the record began that went to a connection's claim."""
    assert pair.world.store.record is not None
    key = pair.world.keys.claim(welcome(member).cid)
    return [str(each.command[0]) for each in pair.world.store.record if key in map(str, each.command)]


def resumed(pair: Pair) -> Recorder:
    """Return ann, whose connection has been resumed, and who is in the room."""
    pair.ann.socket.reset()
    pair.world.run_for(100)
    again = Recorder(pair.here, "ann", resume=welcome(pair.ann).resume)
    pair.world.run_for(200)
    again.socket.send(Join(ROOM))
    pair.world.run_for(500)
    assert session_of(pair, again).participant.epoch == 2
    return again


def test_members_that_were_resumed_are_compared_with_claims_only_where_the_store_may_have_lost_them(
    pair: Pair,
) -> None:
    again = resumed(pair)
    listen(pair)
    (part,) = pair.parts
    for trusted in (True, False):
        part.connectivity.trusted = trusted
        pair.world.store.record = []
        do(pair, pair.rejoin._repeat_claims, only(pair, ROOM))
        pair.world.run_for(ANSWERED_MS)
        assert bool(claims(pair, again)) is not trusted
    assert session_of(pair, again).participant.epoch == 2
    assert again.codes == []


def test_when_members_are_resolved_every_connection_of_the_part_is_compared_soon(pair: Pair) -> None:
    session = session_of(pair, pair.ann)
    listen(pair)
    do(pair, pair.rejoin._resolve_provisional, only(pair, "another"))
    assert len(pair.rejoin._claims) == 0
    do(pair, pair.rejoin._resolve_provisional, only(pair, session.cid))
    assert len(pair.rejoin._claims) == 1
    do(pair, pair.rejoin.check)
    pair.world.run_for(ANSWERED_MS)
    assert (len(pair.rejoin._claims), claims(pair, pair.ann)) == (0, ["HMGET"])


def test_who_got_another_epoch_is_entered_again_in_rooms_that_were_in_reach_all_the_time(pair: Pair) -> None:
    watching = joined(pair, "carl", Watch(ROOM))
    session, membership = session_of(pair, pair.ann), membership_of(pair, pair.ann)

    def claimed(session: Session, epoch: int, waiting: list[tuple[RoomReentry, Membership]]) -> list[str]:
        listen(pair)
        pair.rejoin._claiming[session.cid] = waiting
        do(pair, pair.rejoin._claimed, session, epoch, waiting)
        assert pair.rejoin._claiming == {}
        return entered(pair)

    assert claimed(session, session.participant.epoch, []) == [], "it has the epoch that it had"
    assert claimed(session, session.participant.epoch - 1, [(RoomReentry(pair.view), membership)]) == [], (
        "of before"
    )
    assert claimed(session_of(pair, watching), 0, []) == [], "a watcher"
    assert claimed(session, session.participant.epoch - 1, []) == ["ann"]
    pair.rejoin._claiming[session.cid] = current = []  # type: ignore[var-annotated]  # a dict's
    do(pair, pair.rejoin._claimed, session, 0, [])
    assert pair.rejoin._claiming == {session.cid: current}, "isolated again meanwhile"


@pytest.mark.parametrize(("lost", "epoch", "names"), [(True, 2, []), (False, 3, ["ann"])])
def test_only_a_claim_that_is_answered_with_another_epoch_enters_rooms_again(
    pair: Pair, lost: bool, epoch: int, names: list[str]
) -> None:
    session = session_of(pair, resumed(pair))
    if lost:
        pair.world.store._keyspace.delete(pair.world.keys.claim(session.cid))
    listen(pair)
    pair.rejoin._claims._unconfirmed[session.cid] = session
    do(pair, pair.rejoin._repeat_claims, only(pair, session.cid))
    assert list(pair.rejoin._claiming) == [session.cid]
    assert entered(pair) == names
    assert (pair.rejoin._claiming, pair.rejoin._claims.unconfirmed()) == ({}, [])
    assert session.participant.epoch == epoch


def heard(member: Recorder) -> list[Any]:
    return [message.data for message in member.messages if isinstance(message, Published)]


def test_what_a_connection_says_while_its_claim_is_repeated_is_sent_when_that_is_answered(pair: Pair) -> None:
    session = session_of(pair, pair.ann)
    waiting: list[tuple[RoomReentry, Membership]] = []
    pair.rejoin._claiming[session.cid] = waiting
    pair.ann.socket.send(Publish(ROOM, "after the claim"))
    pair.world.run_for(ANSWERED_MS)
    assert heard(pair.bob) == []
    do(pair, pair.rejoin._claimed, session, session.participant.epoch, waiting)
    pair.world.run_for(ANSWERED_MS)
    assert heard(pair.bob) == ["after the claim"]
    assert pair.rejoin._deferred_messages == {}


def test_what_a_connection_has_said_is_told_here_when_contact_ends_before_its_claim_is_answered(
    pair: Pair,
) -> None:
    beside = joined(pair, "carl", Watch(ROOM))
    pair.rejoin._claiming[session_of(pair, pair.ann).cid] = []
    pair.ann.socket.send(Publish(ROOM, "alone"))
    pair.world.run_for(ANSWERED_MS)
    assert heard(beside) == []
    do(pair, pair.rejoin.on, Lost(), pair.parts)
    pair.world.run_for(ANSWERED_MS)
    assert (heard(beside), pair.rejoin._deferred_messages) == (["alone"], {})
