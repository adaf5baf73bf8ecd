"""Random operations and times: the room does what the plain model does, and says all of it in its deltas."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from presence_server.presence.operations import Operation, Refused
from presence_server.presence.roster import Delta, Roster
from presence_server.presence.state import RoomState
from tests.presence.model import NaiveMember, NaiveRoom
from tests.support.handclock import HandClock
from tests.support.operations import beat, change, enter, kick, leave, linger
from tests.support.properties import examples

FENCE_MS = 400
CIDS = st.sampled_from(["a", "b", "c"])
EPOCHS = st.sampled_from([1, 1, 1, 2, 3])
STATES = st.none() | st.sampled_from([{}, {"x": 1}, {"x": 2}])


class RoomAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.state = RoomState(7, FENCE_MS)
        self.model = NaiveRoom(FENCE_MS)
        self.follower = Roster()
        self.seq = 0
        self.leaves: list[tuple[str, str, str]] = []

    def carry_out(self, operation: Operation) -> None:
        now_ms, wall_ms = self.clock.now_ms(), self.clock.wall_ms()
        (outcome,), deltas = self.state.run((operation,), now_ms, wall_ms)
        told = outcome.why if isinstance(outcome, Refused) else "done"
        assert told == self.model.carry_out(operation, now_ms, wall_ms)
        self.follow_all(deltas)

    def follow_all(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if delta.changes:
                self.follow(delta)
            else:
                assert delta.seq == self.seq

    def follow(self, delta: Any) -> None:
        assert delta.seq == self.seq + 1
        self.seq += 1
        named = [record.member.cid for record in delta.joins]
        named += [entry.cid for entry in (*delta.updates, *delta.leaves)]
        assert len(named) == len(set(named))
        assert named, "a delta that says nothing"
        self.follower.apply(delta)
        assert delta.count == len(self.follower.records)
        assert delta.users == len({record.member.user for record in self.follower.records.values()})
        self.leaves += [(entry.cid, entry.user, entry.reason) for entry in delta.leaves]

    @rule(
        cid=CIDS,
        state=STATES,
        user=st.sampled_from(["ann", "bob"]),
        name=st.sampled_from(["", "Ann"]),
        epoch=EPOCHS,
        ttl_ms=st.sampled_from([100, 300]),
        members_max=st.sampled_from([0, 1, 2]),
    )
    def enter(  # noqa: PLR0917  # each is an argument that hypothesis draws
        self, cid: str, state: Any, user: str, name: str, epoch: int, ttl_ms: int, members_max: int
    ) -> None:
        self.carry_out(
            enter(
                cid,
                state,
                user=user,
                info={"name": name},
                epoch=epoch,
                ttl_ms=ttl_ms,
                members_max=members_max,
            )
        )

    @rule(cid=CIDS, epoch=EPOCHS, v=st.integers(1, 6))
    def change(self, cid: str, epoch: int, v: int) -> None:
        self.carry_out(change(cid, v, epoch=epoch))

    @rule(cid=CIDS, v=st.integers(1, 6))
    def change_with_the_present_epoch(self, cid: str, v: int) -> None:
        member = self.model.members.get(cid)
        if member is not None:
            self.carry_out(change(cid, member.v + v - 3, epoch=member.epoch))

    @rule(cid=CIDS, epoch=EPOCHS, kicked=st.booleans())
    def leave(self, cid: str, epoch: int, kicked: bool) -> None:
        self.carry_out(kick(cid, epoch=epoch) if kicked else leave(cid, epoch=epoch))

    @rule(cid=CIDS)
    def remove(self, cid: str) -> None:
        self.carry_out(kick(cid, epoch=None))

    @rule(cid=CIDS, epoch=EPOCHS, grace_ms=st.sampled_from([10, 150]), clean=st.booleans())
    def linger(self, cid: str, epoch: int, grace_ms: int, clean: bool) -> None:
        self.carry_out(linger(cid, grace_ms, epoch=epoch, reason="closed" if clean else "timeout"))

    @rule(cids=st.sets(CIDS, min_size=1), epoch=EPOCHS)
    def beat(self, cids: set[str], epoch: int) -> None:
        self.carry_out(beat(*sorted(cids), epoch=epoch, ttl_ms=200))

    @rule()
    def beat_everybody_with_the_present_epoch(self) -> None:
        for cid, member in sorted(self.model.members.items()):
            self.carry_out(beat(cid, epoch=member.epoch, ttl_ms=200))

    @rule(ms=st.sampled_from([1, 9, 50, 100, 290, 500]))
    def pass_time(self, ms: int) -> None:
        self.clock.move(ms)

    @rule()
    def sweep(self) -> None:
        now_ms = self.clock.now_ms()
        self.follow_all(self.state.evict_expired(now_ms))
        self.model.pass_to(now_ms)
        self.model.forget_fences(now_ms)
        assert self.state.next_due_ms is None or self.state.next_due_ms > now_ms or self.state

    @invariant()
    def the_members_are_the_models(self) -> None:
        told = {
            cid: (
                record.member.user,
                bytes(record.member.info),
                bytes(record.member.state),
                record.member.v,
                record.member.at,
                record.epoch,
            )
            for cid, record in self.state.roster.records.items()
        }
        assert told == {cid: identity(member) for cid, member in self.model.members.items()}

    @invariant()
    def who_follows_the_deltas_has_the_roster(self) -> None:
        assert self.follower.records == self.state.roster.records
        assert self.follower.users == self.state.roster.users

    @invariant()
    def everybody_who_left_was_announced_once_with_the_right_reason(self) -> None:
        assert sorted(self.leaves) == sorted(self.model.leaves)

    @invariant()
    def a_snapshot_holds_those_who_have_not_expired(self) -> None:
        now_ms = self.clock.now_ms()
        told = {record.member.cid for record in self.state.snapshot(now_ms).records}
        assert told == {cid for cid, member in self.model.members.items() if member.ends_ms > now_ms}

    @invariant()
    def what_is_due_is_known_in_time(self) -> None:
        ends = [member.ends_ms for member in self.model.members.values()]
        ends += [until_ms for _, until_ms in self.model.fences.values()]
        due_ms = self.state.next_due_ms
        if ends:
            assert due_ms is not None
            assert due_ms <= min(ends)

    def teardown(self) -> None:
        """When everybody is gone and forgotten, nothing is left."""
        self.clock.move(10_000)
        for _ in range(10):
            self.follow_all(self.state.evict_expired(self.clock.now_ms()))
        assert not self.state
        assert self.follower.records == {}
        assert self.state.next_due_ms is None


def identity(member: NaiveMember) -> tuple[object, ...]:
    return member.user, member.info, member.state, member.v, member.at, member.epoch


TestRoomAgainstModel = RoomAgainstModel.TestCase
TestRoomAgainstModel.settings = examples(200, steps=40)
