"""The rules of a room, one at a time."""

import pytest

from presence_server.presence.operations import FENCED, FULL, MISSING
from presence_server.presence.state import EVICTIONS_MAX
from presence_server.protocol.messages import Reason
from tests.presence.room import FENCE_MS, Room
from tests.support.operations import TTL_MS, beat, change, decoded, enter, kick, leave, linger


def test_entering_is_announced_with_the_whole_member(room: Room) -> None:
    outcome = room.do(enter("a", {"x": 1}, user="ann", info={"name": "Ann"}))
    (record,) = room.last.joins
    assert outcome.record == record
    member = record.member
    assert (member.cid, member.user, member.v, member.at) == ("a", "ann", 1, room.clock.wall_ms())
    assert (decoded(member.state), decoded(member.info)) == ({"x": 1}, {"name": "Ann"})
    assert (record.epoch, record.node) == (1, "n1")


def test_a_member_that_gives_no_state_has_an_empty_one(room: Room) -> None:
    outcome = room.do(enter("a"))
    assert outcome.record is not None
    assert decoded(outcome.record.member.state) == {}


def test_entering_again_is_no_event(room: Room) -> None:
    room.do(enter("a", {"x": 1}))
    first = room.record("a")
    room.clock.move(10)
    outcome = room.do(enter("a", {"x": 1}), enter("a"))
    assert outcome.record == first
    assert len(room.deltas) == 1


def test_entering_again_renews_the_ttl(room: Room) -> None:
    room.do(enter("a"))
    room.pass_ms(TTL_MS - 1)
    room.do(enter("a"))
    room.pass_ms(TTL_MS - 1)
    assert room.cids == {"a"}
    room.pass_ms(1)
    assert room.cids == set()


def test_entering_again_with_another_state_is_an_update(room: Room) -> None:
    room.do(enter("a", {"x": 1}), enter("a", {"x": 2}))
    (update,) = room.last.updates
    assert (update.v, decoded(update.state)) == (2, {"x": 2})
    assert room.last.joins == ()


def test_a_higher_epoch_goes_on_with_the_same_membership(room: Room) -> None:
    room.do(enter("a", {"x": 1}), change("a", 2, {"x": 2}))
    at = room.record("a").member.at
    room.clock.move(500)
    room.do(enter("a", epoch=2))
    record = room.record("a")
    assert (record.epoch, record.member.v, record.member.at) == (2, 2, at)
    assert decoded(record.member.state) == {"x": 2}
    assert room.follower.records["a"] == record
    assert room.last.leaves == ()
    assert room.last.count == 1


def test_a_new_state_with_a_higher_epoch_is_the_next_version(room: Room) -> None:
    room.do(enter("a", {"x": 1}), enter("a", {"x": 2}, epoch=2))
    record = room.follower.records["a"]
    assert (record.epoch, record.member.v, decoded(record.member.state)) == (2, 2, {"x": 2})


def test_other_info_after_a_resume_replaces_the_member_and_keeps_at_and_v(room: Room) -> None:
    room.do(enter("a", {"x": 1}, info={"name": "Ann"}), change("a", 2, {"x": 2}))
    before = room.record("a").member
    room.clock.move(500)
    room.do(enter("a", info={"name": "Anna"}, epoch=2))
    (record,) = room.last.joins
    assert (record.member.v, record.member.at) == (2, before.at)
    assert decoded(record.member.info) == {"name": "Anna"}
    assert room.last.leaves == ()
    assert room.last.count == 1


def test_a_resume_on_another_node_moves_the_record_there(room: Room) -> None:
    room.do(enter("a", node="n1"), enter("a", epoch=2, node="n2"))
    assert room.record("a").node == "n2"
    assert room.follower.records["a"].node == "n2"


def test_a_lower_epoch_can_do_nothing(room: Room) -> None:
    room.do(enter("a", epoch=3))
    for late in (
        enter("a", {"late": 1}, epoch=2),
        change("a", 9, epoch=2),
        leave("a", epoch=2),
        kick("a", epoch=2),
        linger("a", 1, epoch=2),
    ):
        assert room.carry_out(late) is FENCED
    room.pass_ms(100)
    assert len(room.deltas) == 1
    assert room.record("a").epoch == 3


def test_a_beat_of_a_lower_epoch_keeps_nobody_alive(room: Room) -> None:
    room.do(enter("a", epoch=2))
    room.clock.move(TTL_MS - 1)
    assert room.do(beat("a", epoch=1)).unknown == ("a",), "its node should enter it, and hear that it may not"
    room.pass_ms(1)
    assert room.cids == set()


def test_a_lingering_member_is_there_until_its_grace_is_over(room: Room) -> None:
    room.do(enter("a"), linger("a", 3_000))
    assert len(room.deltas) == 1
    room.pass_ms(2_999)
    assert room.cids == {"a"}
    room.pass_ms(1)
    assert room.cids == set()
    assert [left.cid for left in room.last.leaves] == ["a"]


def test_a_beat_does_not_undo_a_linger(room: Room) -> None:
    room.do(enter("a"), linger("a", 3_000), beat("a"))
    room.pass_ms(3_000)
    assert room.cids == set()


def test_the_same_epoch_does_not_reopen_a_lingering_membership(room: Room) -> None:
    room.do(enter("a"), linger("a", 3_000))
    assert room.carry_out(enter("a")) is FENCED
    room.pass_ms(3_000)
    assert room.cids == set()


def test_a_higher_epoch_reopens_a_lingering_membership(room: Room) -> None:
    room.do(enter("a"), linger("a", 3_000), enter("a", epoch=2))
    room.pass_ms(TTL_MS - 1)
    assert room.cids == {"a"}
    assert [delta.leaves for delta in room.deltas] == [(), ()]


def test_a_change_of_a_higher_epoch_finds_no_member_until_that_life_has_entered(room: Room) -> None:
    room.do(enter("a"), linger("a", 3_000))
    assert room.carry_out(change("a", 2, epoch=2)) is MISSING
    room.do(enter("a", epoch=2), change("a", 2, epoch=2))
    room.pass_ms(TTL_MS - 1)
    assert room.cids == {"a"}


def test_who_lingered_until_its_end_may_join_anew(room: Room) -> None:
    room.do(enter("a", {"x": 1}), change("a", 2), linger("a", 3_000))
    room.pass_ms(3_000)
    room.do(enter("a", epoch=2))
    (record,) = room.last.joins
    assert (record.member.v, record.member.at) == (1, room.clock.wall_ms())


def test_a_connection_may_leave_and_come_back(room: Room) -> None:
    room.do(enter("a"), change("a", 2), leave("a"), enter("a"))
    (record,) = room.last.joins
    assert record.member.v == 1


def test_an_earlier_life_cannot_come_back_after_a_leave(room: Room) -> None:
    room.do(enter("a", epoch=3), leave("a", epoch=3))
    assert room.carry_out(enter("a", epoch=2)) is FENCED
    room.do(enter("a", epoch=3))


def test_who_was_kicked_cannot_come_back_with_the_same_epoch(room: Room) -> None:
    room.do(enter("a"), kick("a"))
    assert room.carry_out(enter("a")) is FENCED
    assert room.carry_out(change("a", 5)) is FENCED
    room.do(enter("a", epoch=2))


def test_a_kick_fences_who_is_not_there_yet(room: Room) -> None:
    assert room.carry_out(kick("a")) is MISSING
    assert room.carry_out(enter("a")) is FENCED


def test_a_leave_does_not_lower_the_fence_of_a_kick(room: Room) -> None:
    room.do(enter("a", epoch=4), kick("a", epoch=4))
    assert room.carry_out(leave("a", epoch=4)) is FENCED
    assert room.carry_out(enter("a", epoch=4)) is FENCED


def test_fences_end_and_leave_nothing_behind(room: Room) -> None:
    room.do(enter("a"), kick("a"))
    room.pass_ms(FENCE_MS - 1)
    assert room.carry_out(enter("a")) is FENCED
    assert room.state
    room.pass_ms(1)
    assert not room.state
    room.do(enter("a"))


def test_fences_end_in_their_own_order(room: Room) -> None:
    room.do(enter("a"), enter("b"), kick("a"))
    room.pass_ms(1_000)
    room.do(kick("b"))
    room.do(enter("a", epoch=2), kick("a", epoch=2))
    room.pass_ms(FENCE_MS - 1)
    assert room.carry_out(enter("b")) is FENCED
    assert room.carry_out(enter("a", epoch=2)) is FENCED
    room.pass_ms(1)
    room.do(enter("b"), enter("a"))


def test_a_room_without_members_and_fences_is_nothing(room: Room) -> None:
    assert not room.state
    room.do(enter("a"), leave("a"))
    assert not room.state


def test_a_change_moves_state_and_version(room: Room) -> None:
    room.do(enter("a"))
    outcome = room.do(change("a", 2, {"x": 2}))
    assert outcome.record is not None
    assert (outcome.record.member.v, decoded(outcome.record.member.state)) == (2, {"x": 2})
    assert [(update.cid, update.v) for update in room.last.updates] == [("a", 2)]


@pytest.mark.parametrize("v", [1, 2, 3])
def test_a_change_at_or_below_the_present_version_changes_nothing(room: Room, v: int) -> None:
    room.do(enter("a"), change("a", 3, {"x": 3}))
    outcome = room.do(change("a", v, {"late": 1}))
    assert outcome.record is not None
    assert (outcome.record.member.v, decoded(outcome.record.member.state)) == (3, {"x": 3})
    assert len(room.deltas) == 2


def test_only_members_can_change_leave_or_linger(room: Room) -> None:
    assert room.carry_out(change("a", 2)) is MISSING
    assert room.carry_out(leave("a")) is MISSING
    assert room.carry_out(linger("a", 100)) is MISSING
    assert room.deltas == []


def test_a_beat_says_whom_the_room_does_not_know(room: Room) -> None:
    room.do(enter("a"))
    assert room.do(beat("a", "b", "c")).unknown == ("b", "c")


def test_a_beat_renews_the_ttl_and_is_no_event(room: Room) -> None:
    room.do(enter("a"))
    for _ in range(5):
        room.pass_ms(TTL_MS - 1)
        room.do(beat("a"))
    assert len(room.deltas) == 1
    room.pass_ms(TTL_MS)
    assert room.cids == set()


def test_a_full_room_lets_nobody_in(room: Room) -> None:
    room.do(enter("a", members_max=2), enter("b", members_max=2))
    assert room.carry_out(enter("c", members_max=2)) is FULL
    assert room.cids == {"a", "b"}


def test_a_full_room_lets_its_members_go_on(room: Room) -> None:
    room.do(enter("a", members_max=1), enter("a", {"x": 1}, members_max=1))
    room.do(linger("a", 100), enter("a", epoch=2, members_max=1))
    assert room.record("a").epoch == 2


def test_an_expired_member_makes_room_at_once(room: Room) -> None:
    room.do(enter("a", members_max=1), linger("a", 100))
    room.clock.move(100)
    room.do(enter("b", members_max=1))
    assert [left.cid for left in room.last.leaves] == ["a"]
    assert [record.member.cid for record in room.last.joins] == ["b"]


def test_no_limit_is_no_limit(room: Room) -> None:
    room.do(*(enter(f"c{n}", members_max=0) for n in range(2_000)))
    assert room.last.count == 2_000


@pytest.mark.parametrize("reason", ["left", "closed", "timeout", "kicked"])
def test_a_leave_says_who_and_why(room: Room, reason: Reason) -> None:
    room.do(enter("a", user="ann"), leave("a", reason=reason))
    (left,) = room.last.leaves
    assert (left.cid, left.user, left.reason) == ("a", "ann", reason)


@pytest.mark.parametrize("reason", ["closed", "timeout"])
def test_the_end_of_a_linger_has_its_reason(room: Room, reason: Reason) -> None:
    room.do(enter("a"), linger("a", 100, reason=reason))
    room.pass_ms(100)
    assert [left.reason for left in room.last.leaves] == [reason]


def test_who_is_not_beaten_is_gone_by_timeout(room: Room) -> None:
    room.do(enter("a"))
    room.pass_ms(TTL_MS)
    assert [left.reason for left in room.last.leaves] == ["timeout"]


def test_a_resume_forgets_the_reason_of_the_linger(room: Room) -> None:
    room.do(enter("a"), linger("a", 100, reason="closed"), enter("a", epoch=2))
    room.pass_ms(TTL_MS)
    assert [left.reason for left in room.last.leaves] == ["timeout"]


def test_every_operation_evicts_the_expired_in_the_same_step(room: Room) -> None:
    room.do(enter("old"))
    room.clock.move(TTL_MS)
    room.do(enter("new"))
    assert room.last.seq == 2
    assert [left.cid for left in room.last.leaves] == ["old"]
    assert [record.member.cid for record in room.last.joins] == ["new"]
    assert (room.last.count, room.last.users) == (1, 1)


def test_a_refused_operation_evicts_too(room: Room) -> None:
    room.do(enter("old"))
    room.clock.move(TTL_MS)
    assert room.carry_out(change("nobody", 2)) is MISSING
    assert [left.cid for left in room.last.leaves] == ["old"]


def test_the_members_that_an_operation_names_are_exempt_from_its_eviction(room: Room) -> None:
    room.do(enter("a"), enter("b"), enter("c"))
    room.clock.move(TTL_MS)
    assert room.do(beat("a", "b")).unknown == ()
    assert [left.cid for left in room.last.leaves] == ["c"]
    room.pass_ms(TTL_MS - 1)
    assert room.cids == {"a", "b"}


def test_who_was_exempt_and_not_renewed_goes_with_the_next_sweep(room: Room) -> None:
    room.do(enter("a"), linger("a", 100))
    room.clock.move(100)
    room.do(beat("a"))
    assert room.cids == {"a"}
    room.sweep_all()
    assert room.cids == set()


def test_one_call_evicts_no_more_than_its_bound_and_the_next_goes_on(room: Room) -> None:
    number = 2 * EVICTIONS_MAX + 50
    room.do(*(enter(f"c{n}") for n in range(number)))
    room.clock.move(TTL_MS)
    evicted = []
    while room.state.next_due_ms is not None and room.state.next_due_ms <= room.clock.now_ms():
        delta = room.sweep()
        assert delta is not None
        evicted.append(len(delta.leaves))
    assert evicted == [EVICTIONS_MAX, EVICTIONS_MAX, 50]
    assert room.cids == set()


def test_a_snapshot_holds_nobody_who_has_expired(room: Room) -> None:
    room.do(enter("a"), enter("b"), linger("b", 100))
    room.clock.move(100)
    snapshot = room.state.snapshot(room.clock.now_ms())
    assert [record.member.cid for record in snapshot.records] == ["a"]
    assert (snapshot.generation, snapshot.seq) == (7, room.state.seq)


@pytest.mark.parametrize("revival", ["beat", "resume"])
def test_who_was_missing_in_a_snapshot_and_is_alive_after_all_is_announced(room: Room, revival: str) -> None:
    room.do(enter("a"))
    room.clock.move(TTL_MS)
    snapshot = room.state.snapshot(room.clock.now_ms())
    room.follower = type(room.follower)(snapshot.records)
    room.do(beat("a") if revival == "beat" else enter("a", epoch=2))
    assert set(room.follower.records) == room.cids


def test_seq_goes_up_by_one_with_each_delta_and_only_then(room: Room) -> None:
    room.do(enter("a"), enter("a"), beat("a"), change("a", 2), change("a", 2), linger("a", 100))
    room.carry_out(leave("b"))
    room.pass_ms(100)
    room.sweep()
    assert [delta.seq for delta in room.deltas] == [1, 2, 3]
    assert {delta.generation for delta in room.deltas} == {7}


def test_users_are_counted_over_their_connections(room: Room) -> None:
    room.do(enter("a1", user="ann"), enter("a2", user="ann"), enter("b", user="bob"))
    assert (room.last.count, room.last.users) == (3, 2)
    room.do(leave("a1"))
    assert (room.last.count, room.last.users) == (2, 2)
    room.do(leave("a2"))
    assert (room.last.count, room.last.users) == (1, 1)


def test_something_is_due_no_later_than_the_first_expiry(room: Room) -> None:
    assert Room().state.next_due_ms is None
    now_ms = room.clock.now_ms()
    room.do(enter("a"))
    assert room.state.next_due_ms == now_ms + TTL_MS
    room.do(linger("a", 3_000))
    assert room.state.next_due_ms == now_ms + 3_000
    room.do(enter("b", ttl_ms=10))
    assert room.state.next_due_ms == now_ms + 10
    room.do(kick("b"), leave("a"))
    assert room.state.next_due_ms is not None
    assert room.state.next_due_ms <= now_ms + FENCE_MS


def test_joining_and_leaving_for_ever_keeps_nothing(room: Room) -> None:
    for _ in range(2_000):
        room.do(enter("a"), leave("a"))
        room.pass_ms(100)
    assert len(room.state._deadlines._queue) <= TTL_MS // 100 + 1
