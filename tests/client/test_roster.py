"""Whatever the server sends, in whatever pieces, the client's roster is the server's."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from presence_server.client.events import Joined, Left, RosterEvent, Synced, Updated, User
from presence_server.client.message_codec import RosterSync
from presence_server.client.roster import ClientRoster
from presence_server.protocol.messages import Count, Diff, Member, MemberLeave, MemberUpdate, Mode

ANN = Member("c1", "ann", {}, {}, 1, 1000)
ANN_PHONE = Member("c2", "ann", {"device": "phone"}, {}, 1, 1001)
BOB = Member("c3", "bob", {}, {}, 1, 1002)


def synced(
    *members: Member, cursor: str | None = None, mode: Mode = "full", count: int | None = None
) -> RosterSync:
    return RosterSync(
        room="lobby",
        mode=mode,
        you=True,
        seq=7,
        count=len(members) if count is None else count,
        users=len({member.user for member in members}),
        members=members,
        cursor=cursor,
        stale=False,
    )


def changed(**changes: Any) -> Diff:
    return Diff(room="lobby", seq=8, count=1, users=1, **changes)


def roster_of(*members: Member) -> ClientRoster:
    roster = ClientRoster("lobby")
    roster.sync(synced(*members))
    return roster


def test_the_first_roster_is_no_news() -> None:
    roster = ClientRoster("lobby")
    assert roster.sync(synced(ANN, BOB)) == [Synced("lobby", "full", 2, 2)]
    assert dict(roster.members) == {"c1": ANN, "c3": BOB}


def test_a_second_tab_is_the_same_user() -> None:
    roster = roster_of(ANN, ANN_PHONE, BOB)
    assert len(roster.users) == 2
    assert roster.users["ann"] == User("ann", {"device": "phone"}, (ANN, ANN_PHONE))


def test_a_user_goes_with_the_last_connection() -> None:
    roster = roster_of(ANN, ANN_PHONE)
    roster.diff(changed(leaves=(MemberLeave("c1", "ann", "left"),)))
    assert list(roster.users) == ["ann"]
    roster.diff(changed(leaves=(MemberLeave("c2", "ann", "closed"),)))
    assert list(roster.users) == []


def test_a_diff_says_who_came_changed_and_left() -> None:
    roster = roster_of(ANN, BOB)
    events = roster.diff(
        changed(
            joins=(ANN_PHONE,),
            updates=(MemberUpdate("c1", {"away": True}, 2),),
            leaves=(MemberLeave("c3", "bob", "timeout"),),
        )
    )
    away = msgspec.structs.replace(ANN, state={"away": True}, v=2)
    assert events == [Left("lobby", BOB, "timeout"), Joined("lobby", ANN_PHONE), Updated("lobby", away, ANN)]
    assert roster.seq == 8


def test_a_join_of_somebody_who_is_there_left_and_came_back() -> None:
    roster = roster_of(ANN)
    back = msgspec.structs.replace(ANN, at=5000)
    assert roster.diff(changed(joins=(back,))) == [Left("lobby", ANN, None), Joined("lobby", back)]


def test_updates_and_leaves_of_unknown_cids_mean_nothing() -> None:
    roster = roster_of(ANN)
    unknown = changed(updates=(MemberUpdate("nobody", {}, 2),), leaves=(MemberLeave("no-one", "n", "left"),))
    assert roster.diff(unknown) == []
    assert dict(roster.members) == {"c1": ANN}


def test_a_roster_read_again_comes_as_its_difference() -> None:
    roster = roster_of(ANN, BOB)
    away = msgspec.structs.replace(ANN, state={"away": True}, v=5)
    assert roster.sync(synced(away, ANN_PHONE)) == [
        Updated("lobby", away, ANN),
        Joined("lobby", ANN_PHONE),
        Left("lobby", BOB, None),
        Synced("lobby", "full", 2, 1),
    ]


def test_nobody_is_gone_before_the_last_page() -> None:
    roster = roster_of(ANN, BOB)
    assert roster.sync(synced(ANN, cursor="more", count=2)) == []
    assert "c3" in roster.members
    assert not roster.complete
    assert roster.page((BOB,), last=False) == []
    assert roster.page((), last=True) == [Synced("lobby", "full", 2, 1)]
    assert roster.complete


def test_who_comes_before_the_first_roster_is_complete_is_no_news_either() -> None:
    roster = ClientRoster("lobby")
    assert roster.sync(synced(ANN, cursor="more", count=2)) == []
    assert roster.diff(changed(joins=(BOB,))) == []
    assert roster.page((ANN_PHONE,), last=True) == [Synced("lobby", "full", 1, 1)]
    assert len(roster.members) == 3


def test_an_update_of_somebody_whose_page_is_not_there_yet_comes_with_the_page() -> None:
    roster = roster_of(ANN, BOB)
    roster.sync(synced(ANN, cursor="more", count=2))
    assert roster.diff(changed(updates=(MemberUpdate("c3", {"n": 2}, 2),))) == []
    back = Member("c3", "bob", {"phone": True}, {"n": 2}, 2, 9000)
    assert roster.page((back,), last=True)[0] == Updated("lobby", back, BOB)


def test_who_is_in_both_rosters_has_not_left_whatever_was_in_between() -> None:
    roster = roster_of(ANN, BOB)
    again = [msgspec.structs.replace(member, at=90_000, v=1) for member in (ANN, BOB)]
    assert roster.sync(synced(*again)) == [Synced("lobby", "full", 2, 2)]
    assert list(roster.members.values()) == again


def test_in_count_mode_there_are_numbers_only() -> None:
    roster = roster_of(ANN, BOB)
    assert roster.sync(synced(mode="count", count=5000)) == [Synced("lobby", "count", 5000, 0)]
    assert not roster.members
    roster.recount(Count("lobby", 5001, 4000))
    assert (roster.count, roster.user_count) == (5001, 4000)
    assert roster.sync(synced(ANN)) == [Synced("lobby", "full", 1, 1)]


def test_a_diff_of_an_earlier_stay_means_nothing() -> None:
    roster = ClientRoster("lobby")
    assert roster.diff(changed(joins=(ANN,))) == []
    assert not roster.members


@dataclass
class Room:
    """A server's roster, and what it has told its one watcher so far."""

    members: dict[str, Member] = field(default_factory=dict)
    told: dict[str, Member] = field(default_factory=dict)
    clock: Iterator[int] = field(default_factory=lambda: count(1000))

    def flush(self) -> Diff:
        """What changed since the last one: each cid at most once."""
        now, before = self.members, self.told
        self.told = dict(now)
        return changed(
            joins=tuple(m for c, m in now.items() if c not in before or before[c].at != m.at),
            updates=tuple(
                MemberUpdate(c, m.state, m.v)
                for c, m in now.items()
                if c in before and before[c].at == m.at and before[c].v != m.v
            ),
            leaves=tuple(MemberLeave(c, m.user, "left") for c, m in before.items() if c not in now),
        )

    def page(self, after: str, limit: int) -> tuple[tuple[Member, ...], str | None]:
        cids = sorted(cid for cid in self.members if cid > after)
        page = tuple(self.members[cid] for cid in cids[:limit])
        if len(cids) <= limit:
            return page, None
        return page, page[-1].cid if page else after


@dataclass(frozen=True)
class Step:
    verb: str
    cid: str
    number: int


cids = st.sampled_from("abcdefgh")
verbs = st.sampled_from(["join", "join", "update", "leave", "flush", "sync", "page", "page"])
steps = st.lists(st.builds(Step, verbs, cids, st.integers(0, 3)), min_size=10, max_size=80)


def change(room: Room, step: Step) -> None:
    known = room.members.get(step.cid)
    if step.verb == "join" and known is None:
        user = f"u{step.number % 2}"
        room.members[step.cid] = Member(step.cid, user, {}, {"n": step.number}, 1, next(room.clock))
    elif step.verb == "update" and known is not None:
        room.members[step.cid] = msgspec.structs.replace(known, state={"n": step.number}, v=known.v + 1)
    elif step.verb == "leave":
        room.members.pop(step.cid, None)


def follow(shown: dict[str, Member], events: list[RosterEvent]) -> None:
    """What an application that keeps its own list does."""
    for event in events:
        if isinstance(event, Joined):
            assert event.member.cid not in shown
            shown[event.member.cid] = event.member
        elif isinstance(event, Updated):
            assert shown[event.member.cid] == event.previous
            shown[event.member.cid] = event.member
        elif isinstance(event, Left):
            assert shown.pop(event.member.cid) == event.member


@given(steps)
def test_the_roster_and_its_events_always_come_to_the_servers_roster(plan: list[Step]) -> None:
    room, roster = Room(), ClientRoster("lobby")
    shown: dict[str, Member] | None = None
    cursor: str | None = None
    closing = [Step("sync", "a", 3)] if not any(step.verb == "sync" for step in plan) else []
    for step in [*plan, *closing, *[Step("page", "a", 3)] * 9, Step("flush", "a", 0)]:
        change(room, step)
        events: list[RosterEvent] = []
        if step.verb in {"flush", "sync", "page"}:
            events += roster.diff(room.flush())
        if step.verb == "sync":
            page, cursor = room.page("", step.number)
            events += roster.sync(synced(*page, cursor=cursor, count=len(room.members)))
        elif step.verb == "page" and cursor is not None:
            page, cursor = room.page(cursor, 1 + step.number)
            events += roster.page(page, last=cursor is None)
        if shown is not None:
            follow(shown, events)
        elif any(isinstance(event, Synced) for event in events):
            shown = dict(roster.members)
        else:
            assert events == []
        if roster.complete and step.verb in {"flush", "sync", "page"}:
            assert dict(roster.members) == room.members
            assert shown == room.members
    assert roster.complete
    assert {user: {m.cid for m in entry.members} for user, entry in roster.users.items()} == {
        user: {m.cid for m in room.members.values() if m.user == user}
        for user in {m.user for m in room.members.values()}
    }
