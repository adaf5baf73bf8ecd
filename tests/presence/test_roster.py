"""Net changes and differences of rosters."""

from hypothesis import given
from hypothesis import strategies as st

from presence_server.presence.roster import (
    ChangeBatch,
    Delta,
    NetChange,
    Record,
    Roster,
    Snapshot,
    difference,
)
from presence_server.protocol.messages import Member
from tests.presence.room import Room
from tests.support.operations import TTL_MS, beat, change, enter, kick, leave, linger
from tests.support.properties import examples

CIDS = st.sampled_from("abc")
RECORDS = st.builds(
    Record,
    st.builds(
        Member,
        CIDS,
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([b"{}", b'{"name":"A"}']),
        st.sampled_from([b"{}", b'{"x":1}', b'{"x":2}']),
        st.integers(1, 4),
        st.integers(1, 2),
    ),
    st.integers(1, 3),
    st.just("n1"),
)
ROSTERS = st.lists(RECORDS, unique_by=lambda record: record.member.cid)


def applied(before: dict[str, Member], net: NetChange) -> dict[str, Member]:
    """Apply a net change as a client does."""
    after = dict(before)
    for member in net.joins:
        after[member.cid] = member
    for update in net.updates:
        old = after[update.cid]
        after[update.cid] = Member(old.cid, old.user, old.info, update.state, update.v, old.at)
    for left in net.leaves:
        del after[left.cid]
    return after


def members_of(roster: Roster) -> dict[str, Member]:
    return {cid: record.member for cid, record in roster.records.items()}


class Batched:
    """A room's deltas, gathered."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.roster = Roster()
        self.batch = ChangeBatch()
        self.seen = 0

    def follow(self) -> None:
        """Take what the room has announced; nobody is told yet."""
        for delta in self.room.deltas[self.seen :]:
            self.batch.note_delta(self.roster, delta)
            self.roster.apply(delta)
        self.seen = len(self.room.deltas)

    def take(self) -> NetChange:
        """Return the net change since the last call."""
        self.follow()
        return self.batch.take_net_change(self.roster)

    def told(self) -> dict[str, Member]:
        """Return what clients have been told, as a page of the roster shows it while a batch is open."""
        told = {cid: record.member for cid, record in self.batch.records_before(self.roster).items()}
        for cid in "abc":
            record = self.batch.record_before(self.roster, cid)
            assert (None if record is None else record.member) == told.get(cid)
        return told


def test_who_came_and_went_was_never_there(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"), change("a", 2), leave("a"))
    assert not batched.take()


def test_many_updates_are_the_last_one(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"))
    batched.take()
    room.do(*(change("a", v) for v in range(2, 10)))
    net = batched.take()
    assert [(update.cid, update.v) for update in net.updates] == [("a", 9)]
    assert (net.joins, net.leaves) == ((), ())


def test_a_join_and_its_updates_are_one_join(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"), change("a", 2))
    net = batched.take()
    assert [member.v for member in net.joins] == [2]
    assert net.updates == ()


def test_leaving_and_coming_back_is_one_replacing_join(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"), change("a", 2))
    batched.take()
    room.clock.move(5)
    room.do(leave("a"), enter("a"))
    net = batched.take()
    assert [(member.cid, member.v, member.at) for member in net.joins] == [("a", 1, room.clock.wall_ms())]
    assert (net.updates, net.leaves) == ((), ())


def test_leaving_and_coming_back_within_one_millisecond_never_lowers_a_version_by_an_update(
    room: Room,
) -> None:
    batched = Batched(room)
    room.do(enter("a"), change("a", 2))
    batched.take()
    room.do(leave("a"), enter("a"))
    net = batched.take()
    assert net.updates == ()
    assert [member.v for member in net.joins] == [1]


def test_a_resume_is_no_event(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a", {"x": 1}))
    batched.take()
    room.do(linger("a", 1_000))
    room.clock.move(500)
    room.do(enter("a", {"x": 1}, epoch=2))
    assert not batched.take()


def test_other_info_is_a_replacing_join(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a", info={"name": "Ann"}))
    batched.take()
    room.do(enter("a", info={"name": "Anna"}, epoch=2))
    assert [member.cid for member in batched.take().joins] == ["a"]


def test_a_leave_has_the_last_reason(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"))
    batched.take()
    room.do(leave("a"), enter("a"), kick("a"))
    assert [(left.cid, left.reason) for left in batched.take().leaves] == [("a", "kicked")]


def test_a_taken_batch_begins_anew(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a"))
    assert batched.take()
    assert not batched.take()


def test_until_a_batch_is_taken_clients_have_been_told_what_was_before_it(room: Room) -> None:
    batched = Batched(room)
    room.do(enter("a", {"x": 1}), enter("b"))
    batched.take()
    before = batched.told()
    room.do(change("a", 2), leave("b"), enter("c"))
    batched.follow()
    assert set(before) == {"a", "b"}
    assert batched.told() == before


def test_old_news_changes_nothing() -> None:
    record = Record(Member("a", "ann", b"{}", b"{}", 3, 1), 2, "n1")
    roster = Roster([record])
    for epoch, v in ((1, 9), (2, 3), (2, 2)):
        roster.apply(Delta(1, 1, 1, 1, updates=(change("a", v, epoch=epoch),)))
    roster.apply(Delta(1, 1, 1, 1, updates=(change("unknown", 9),)))
    assert roster.records == {"a": record}


EPOCHS = st.sampled_from([1, 1, 1, 2, 3])
OPERATIONS = st.one_of(
    st.builds(
        enter,
        CIDS,
        st.sampled_from([None, {}, {"x": 1}]),
        user=st.sampled_from(["ann", "bob"]),
        info=st.sampled_from([{}, {"name": "A"}]),
        epoch=EPOCHS,
    ),
    st.builds(change, CIDS, st.integers(1, 5), epoch=EPOCHS),
    st.builds(leave, CIDS, epoch=EPOCHS),
    st.builds(kick, CIDS, epoch=st.integers(1, 2)),
    st.builds(linger, CIDS, st.sampled_from([1, 50]), epoch=EPOCHS),
    st.builds(beat, CIDS, epoch=EPOCHS),
)


@given(st.lists(OPERATIONS | st.just("take") | st.sampled_from([1, 50, TTL_MS]), max_size=40))
@examples(300)
def test_a_net_change_leads_from_one_roster_to_the_next(steps: list[object]) -> None:
    room = Room()
    batched = Batched(room)
    client: dict[str, Member] = {}
    for step in [*steps, "take"]:
        if isinstance(step, int):
            room.pass_ms(step)
        elif step == "take":
            net = batched.take()
            named = [entry.cid for part in (net.joins, net.updates, net.leaves) for entry in part]
            assert len(named) == len(set(named))
            assert all(update.cid in client for update in net.updates)
            assert all(update.v > client[update.cid].v for update in net.updates)
            assert all(left.cid in client for left in net.leaves)
            client = applied(client, net)
            assert client == members_of(room.state.roster)
        else:
            room.carry_out(step)  # type: ignore[arg-type]  # OPERATIONS makes nothing else
        batched.follow()
        assert batched.told() == client


@given(ROSTERS, ROSTERS, st.integers(0, 9), st.integers(0, 9))
@examples(500)
def test_a_difference_turns_any_roster_into_any_snapshot(
    before: list[Record], after: list[Record], generation: int, seq: int
) -> None:
    roster, batch = Roster(before), ChangeBatch()
    client = members_of(roster)
    delta = difference(roster, Snapshot(generation, seq, tuple(after)))
    batch.note_delta(roster, delta)
    roster.apply(delta)
    assert roster.records == {record.member.cid: record for record in after}
    assert roster.users == Roster(after).users
    assert (delta.generation, delta.seq) == (generation, seq)
    assert (delta.count, delta.users) == (len(after), len(roster.users))
    assert applied(client, batch.take_net_change(roster)) == members_of(roster)


@given(ROSTERS)
@examples(50)
def test_there_is_no_difference_to_itself(records: list[Record]) -> None:
    delta = difference(Roster(records), Snapshot(1, 2, tuple(records)))
    assert (delta.joins, delta.updates, delta.leaves) == ((), (), ())


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "cem"]), CIDS), max_size=20))
@examples(50)
def test_users_are_those_of_the_records(puts: list[tuple[str, str]]) -> None:
    roster = Roster()
    for n, (user, cid) in enumerate(puts):
        roster.put(Record(Member(cid, user, b"{}", b"{}", 1, n), 1, "n1"))
        if n % 3 == 2:
            roster.remove(cid)
        counted: dict[str, int] = {}
        for record in roster.records.values():
            counted[record.member.user] = counted.get(record.member.user, 0) + 1
        assert roster.users == counted
