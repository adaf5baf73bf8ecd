"""What clients have been told while a batch is open, and how long what they are told is."""

import msgspec
import pytest

from presence_server.presence.roster import (
    Change,
    ChangeBatch,
    Delta,
    Record,
    Roster,
    Snapshot,
    difference,
    json_bytes,
)
from presence_server.protocol.messages import Member, MemberLeave
from tests.presence.room import Room
from tests.support.operations import change, enter, leave


class Open:
    """A roster of a, b and c that clients have been told, and a batch that opens with what comes then."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.roster = Roster()
        self.batch = ChangeBatch()
        room.do(enter("a"), enter("b"), enter("c"))
        self.follow()
        self.batch.take_net_change(self.roster)
        self.before = dict(self.roster.records)

    def follow(self) -> None:
        """Take what the room has announced."""
        for delta in self.room.deltas:
            self.batch.note_delta(self.roster, delta)
            self.roster.apply(delta)
        self.room.deltas.clear()


@pytest.fixture
def opened(room: Room) -> Open:
    return Open(room)


def test_until_a_batch_ends_clients_have_been_told_what_there_was_before(opened: Open) -> None:
    opened.room.do(leave("a"), change("b", 2), change("b", 3), enter("d"))
    opened.follow()
    assert set(opened.roster.records) == {"b", "c", "d"}
    assert opened.batch.records_before(opened.roster) == opened.before
    for cid in "abcd":
        assert opened.batch.record_before(opened.roster, cid) == opened.before.get(cid)


def test_a_member_that_comes_and_goes_within_a_batch_has_never_been_told(opened: Open) -> None:
    opened.room.do(enter("d"), leave("d"))
    opened.follow()
    assert opened.batch
    assert opened.batch.records_before(opened.roster) == opened.before
    assert opened.batch.record_before(opened.roster, "d") is None


def test_what_has_been_told_is_the_roster_where_no_batch_is_open(opened: Open) -> None:
    assert not opened.batch
    assert opened.batch.records_before(opened.roster) == opened.roster.records == opened.before
    assert opened.batch.record_before(opened.roster, "a") == opened.before["a"]
    assert opened.batch.record_before(opened.roster, "nobody") is None


def test_a_batch_begins_anew_when_it_is_taken(opened: Open) -> None:
    opened.room.do(leave("a", reason="kicked"))
    opened.follow()
    assert [(left.cid, left.reason) for left in opened.batch.take_net_change(opened.roster).leaves] == [
        ("a", "kicked")
    ]
    assert not opened.batch
    assert not opened.batch.take_net_change(opened.roster)
    assert opened.batch.records_before(opened.roster) == opened.roster.records


def test_the_reason_of_a_leave_is_that_of_the_last_one(opened: Open) -> None:
    opened.room.do(leave("a", reason="kicked"), enter("a"), leave("a", reason="left"))
    opened.follow()
    assert [(left.cid, left.reason) for left in opened.batch.take_net_change(opened.roster).leaves] == [
        ("a", "left")
    ]


def test_when_a_member_may_expire_is_unknown_unless_a_delta_says_so() -> None:
    assert Delta(1, 1, 0, 0).due_ms == 0


@pytest.mark.parametrize("user", ["a", "a long name of somebody", "\x01" * 40, '"' * 40, "é" * 40, "💬" * 40])
def test_an_entry_is_never_longer_than_it_is_taken_to_be(user: str) -> None:
    raw = msgspec.Raw
    member = Member("c" * 22, user, raw(b'{"n":1}'), raw(b'{"s":"' + b"x" * 90 + b'"}'), 2**53, 2**53)
    length = len(msgspec.json.encode(member))
    assert length <= json_bytes(member) <= length + 100 + 5 * len(user)


def test_a_delta_names_each_user_once_however_many_connections_leave() -> None:
    raw = msgspec.Raw(b"{}")
    roster = Roster(Record(Member(cid, "ann", raw, raw, 1, 1), 1, "n") for cid in "ab")
    assert roster.users == {"ann": 2}
    roster.apply(Delta(1, 1, 1, 1, leaves=(MemberLeave("a", "ann", "left"),)))
    assert roster.users == {"ann": 1}
    roster.apply(Delta(1, 2, 0, 0, leaves=(MemberLeave("b", "ann", "left"), MemberLeave("b", "ann", "left"))))
    assert roster.users == {}


def test_an_update_changes_state_and_version_and_leaves_the_rest(opened: Open) -> None:
    before = opened.before["b"]
    opened.room.do(change("b", 2, {"x": 1}))
    opened.follow()
    after = opened.roster.records["b"]
    assert (after.node, after.epoch) == (before.node, before.epoch)
    member, was = after.member, before.member
    assert (member.cid, member.user, member.info, member.at) == (was.cid, was.user, was.info, was.at)
    assert (member.v, bytes(member.state)) == (2, b'{"x":1}')


def test_nothing_is_kept_of_a_batch_that_was_taken(opened: Open) -> None:
    opened.room.do(leave("a"), enter("d"))
    opened.follow()
    opened.batch.take_net_change(opened.roster)
    assert (opened.batch._before, opened.batch._reasons) == ({}, {})


def test_the_difference_to_a_snapshot_is_what_has_changed_and_nothing_else(opened: Open) -> None:
    earlier = Roster(opened.before.values())
    opened.room.do(leave("a", reason="kicked"), change("b", 2, {"x": 1}), enter("d"))
    opened.follow()
    records = opened.roster.records
    delta = difference(earlier, Snapshot(8, 99, tuple(records.values())))
    changed = records["b"]
    assert delta == Delta(
        8,
        99,
        3,
        3,
        joins=(records["d"],),
        updates=(Change("b", changed.epoch, 2, changed.member.state),),
        leaves=(MemberLeave("a", "user of a", "timeout"),),
        due_ms=0,
    )


def test_another_epoch_of_a_member_is_a_difference(opened: Open) -> None:
    record = opened.before["a"]
    resumed = Record(record.member, record.epoch + 1, "n2")
    others = (opened.before["b"], opened.before["c"])
    delta = difference(opened.roster, Snapshot(7, 9, (resumed, *others)))
    assert (delta.joins, delta.updates, delta.leaves) == ((resumed,), (), ())
