"""When a room evicts nobody, what a member over its time is, and how long fences are kept."""

import pytest

from presence_server.presence.operations import Done, Leave, Sent
from presence_server.presence.state import CHANGE_BYTES, DELTA_BYTES_MAX
from tests.presence.room import FENCE_MS, Room
from tests.support.operations import TTL_MS, beat, change, done, enter, leave

LATE_MS = 15_000
HOLD_MS = 20_000
HOUR_MS = 3_600_000


def arrive(room: Room, *, ms_ago: int = 0, hold_rest_ms: int = 0, hold_ms: int = HOLD_MS) -> None:
    """Have a call come that was sent a while ago."""
    now_ms = room.clock.now_ms()
    room.state.run((), now_ms, room.clock.wall_ms(), Sent(now_ms - ms_ago, LATE_MS, hold_ms, hold_rest_ms))


def holds(room: Room, ms: int) -> bool:
    """Tell whether the room still holds in so many ms."""
    return room.state.hold_until_ms > room.clock.now_ms() + ms


def test_a_call_that_was_under_way_for_too_long_evicts_nobody(room: Room) -> None:
    room.do(enter("a"))
    room.clock.move(TTL_MS)
    arrive(room, ms_ago=LATE_MS + 1)
    assert room.cids == {"a"}
    assert (holds(room, HOLD_MS - 1), holds(room, HOLD_MS)) == (True, False)
    assert room.state.due_ms == room.state.hold_until_ms
    room.clock.move(HOLD_MS - 1)
    room.sweep()
    assert room.cids == {"a"}
    room.clock.move(1)
    room.sweep()
    assert room.cids == set()


def test_a_call_in_time_judges_who_is_over_it(room: Room) -> None:
    room.do(enter("a"))
    room.clock.move(TTL_MS)
    arrive(room, ms_ago=LATE_MS)
    assert room.cids == set()
    assert not holds(room, 0)


def test_a_node_that_was_without_contact_asks_for_the_rest_of_its_hold(room: Room) -> None:
    room.do(enter("a"))
    room.clock.move(TTL_MS)
    arrive(room, hold_rest_ms=1)
    assert room.cids == {"a"}
    assert (holds(room, 0), holds(room, 1)) == (True, False)


@pytest.mark.parametrize("late", [False, True])
def test_a_hold_is_never_shortened(room: Room, *, late: bool) -> None:
    arrive(room, hold_rest_ms=HOLD_MS)
    until_ms = room.state.hold_until_ms
    arrive(room, hold_rest_ms=0 if late else 1_000, ms_ago=LATE_MS + 1 if late else 0, hold_ms=1_000)
    assert room.state.hold_until_ms == until_ms
    arrive(
        room, hold_rest_ms=0 if late else 2 * HOLD_MS, ms_ago=LATE_MS + 1 if late else 0, hold_ms=2 * HOLD_MS
    )
    assert room.state.hold_until_ms == until_ms + HOLD_MS


def test_a_member_over_its_time_that_enters_again_is_announced_with_all_that_it_has(room: Room) -> None:
    room.do(enter("a", {"x": 1}), enter("b", {"x": 1}), enter("c", {"x": 1}))
    room.clock.move(TTL_MS)
    kept = room.record("a")
    assert not done(room.carry_out(enter("a"))).created
    assert (room.last.joins, room.last.updates, room.last.leaves[0].cid) == ((kept,), (), "b")
    room.clock.move(TTL_MS)
    room.do(enter("a", {"x": 2}))
    (joined,) = room.last.joins
    assert (joined.member.v, bytes(joined.member.state), joined.member.at) == (2, b'{"x":2}', kept.member.at)
    assert room.last.updates == ()


def test_a_member_over_its_time_that_is_heard_of_is_announced(room: Room) -> None:
    room.do(enter("a"))
    kept = room.record("a")
    room.clock.move(TTL_MS)
    room.do(beat("a"))
    assert room.last.joins == (kept,)
    deltas = len(room.deltas)
    room.do(beat("a"))
    assert len(room.deltas) == deltas


def test_only_who_was_not_there_is_a_new_member(room: Room) -> None:
    created = [room.do(enter("a", epoch=epoch)).created for epoch in (1, 1, 2)]
    assert created == [True, False, False]


def test_fences_that_are_over_are_not_kept_in_a_room_that_goes_on(room: Room) -> None:
    room.do(enter("stays"))
    for number in range(50):
        room.clock.move(FENCE_MS // 10)
        room.do(beat("stays"), enter(f"c{number}", epoch=2), leave(f"c{number}", epoch=2))
        assert len(room.state._fences) <= 10
    assert isinstance(room.carry_out(enter("c0")), Done)
    assert not isinstance(room.carry_out(enter("c49")), Done)


def test_what_is_due_is_told_by_the_store_s_clock_after_it_stepped_back(room: Room) -> None:
    room.clock.move(2 * HOUR_MS)
    room.do(enter("a"), enter("b", epoch=2), leave("b", epoch=2))
    room.do(leave("a"))
    room.clock.move(-HOUR_MS)
    room.sweep()
    due_ms = room.state.next_due_ms
    assert due_ms is not None
    assert room.clock.now_ms() < due_ms <= room.clock.now_ms() + FENCE_MS
    room.do(enter("d"), change("d", 2))
    assert room.state.due_ms is not None
    assert room.clock.now_ms() < room.state.due_ms <= room.clock.now_ms() + TTL_MS
    arrive(room, hold_rest_ms=HOLD_MS)
    assert (holds(room, HOLD_MS - 1), holds(room, HOLD_MS)) == (True, False)


def test_a_page_begins_after_its_cursor_and_ends_with_the_next(room: Room) -> None:
    room.do(*(enter(cid) for cid in "dbca"))
    now_ms = room.clock.now_ms()
    pages = [
        room.state.page_by_scan(after, limit, now_ms)
        for after, limit in (("", 2), ("b", 2), ("b", 1), ("d", 2))
    ]
    assert [("".join(record.member.cid for record in records), after) for records, after in pages] == [
        ("ab", "b"),
        ("cd", None),
        ("c", "c"),
        ("", None),
    ]


def test_who_is_over_time_is_neither_counted_nor_shown_unless_the_room_holds(room: Room) -> None:
    room.do(enter("a", user="ann"), enter("b", user="ann"))
    room.clock.move(TTL_MS - 1)
    room.do(beat("b"))
    room.clock.move(1)
    now_ms = room.clock.now_ms()
    late = Sent(now_ms - LATE_MS - 1, LATE_MS, HOLD_MS)
    assert [record.member.cid for record in room.state.snapshot(now_ms).records] == ["b"]
    assert [record.member.cid for record in room.state.page_by_scan("", 9, now_ms)[0]] == ["b"]
    assert [record.member.cid for record in room.state.snapshot(now_ms, late).records] == ["a", "b"]
    assert [record.member.cid for record in room.state.page_by_scan("", 9, now_ms)[0]] == ["a", "b"]
    assert room.state.counts(now_ms) == (2, 1, [])


def test_counting_evicts_and_says_who_has_gone(room: Room) -> None:
    room.do(enter("a", user="ann"), enter("b", user="ann"), enter("c", user="cem"))
    room.clock.move(TTL_MS - 1)
    room.do(beat("b"))
    room.clock.move(1)
    members, users, (delta,) = room.state.counts(room.clock.now_ms())
    assert (members, users, sorted(left.cid for left in delta.leaves)) == (1, 1, ["a", "c"])
    room.clock.move(TTL_MS)
    late = Sent(room.clock.now_ms() - LATE_MS - 1, LATE_MS, HOLD_MS)
    assert room.state.counts(room.clock.now_ms(), late) == (1, 1, [])
    for read in (room.state.evict_expired, lambda now_ms: room.state.run((), now_ms, 0).deltas):
        assert read(room.clock.now_ms()) == []


def test_a_backend_that_removes_a_member_is_told_whom_and_where_the_room_is_then(room: Room) -> None:
    room.do(enter("a"), enter("b"))
    record = room.record("a")
    by_backend = room.do(Leave("a", None, "kicked", fence=True))
    assert by_backend.record == record
    assert (by_backend.generation, by_backend.seq) == room.state.position
    own = room.do(leave("b"))
    assert own.record is None
    assert (own.generation, own.seq) == room.state.position
    assert own.unknown == ()


def test_a_fence_ends_at_its_time_and_not_before(room: Room) -> None:
    room.do(enter("stays", ttl_ms=9 * FENCE_MS), enter("a", epoch=2), leave("a", epoch=2))
    room.clock.move(FENCE_MS - 1)
    assert not isinstance(room.carry_out(enter("a")), Done)
    room.clock.move(1)
    assert isinstance(room.carry_out(enter("a")), Done)


def test_a_room_is_kept_until_its_last_member_ends_by_the_store_s_clock(room: Room) -> None:
    room.clock.move(2 * HOUR_MS)
    assert room.state.last_end_ms is None
    room.do(enter("a"), enter("b", ttl_ms=2 * TTL_MS))
    room.clock.move(-HOUR_MS)
    room.do(beat("a"))
    assert room.state.last_end_ms == room.clock.now_ms() + 2 * TTL_MS


def test_a_room_that_nobody_has_been_in_is_nowhere(room: Room) -> None:
    assert room.state.position == (0, 0)
    assert room.state.snapshot(room.clock.now_ms()).generation == 0
    assert not isinstance(room.carry_out(change("a", 2)), Done)
    assert room.state.position == (0, 0)
    room.do(enter("a"))
    assert room.state.position == (7, 1)


@pytest.mark.parametrize("read", ["snapshot", "page", "counts", "sweep"])
def test_every_kind_of_reading_holds_where_its_call_was_under_way_for_too_long(room: Room, read: str) -> None:
    room.do(enter("a"))
    room.clock.move(TTL_MS)
    now_ms = room.clock.now_ms()
    late = Sent(now_ms - LATE_MS - 1, LATE_MS, HOLD_MS)
    state = room.state
    if read == "page":
        assert len(state.page_by_scan("", 9, now_ms, late)[0]) == 1
    elif read == "snapshot":
        assert len(state.snapshot(now_ms, late).records) == 1
    elif read == "counts":
        assert state.counts(now_ms, late) == (1, 1, [])
    else:
        assert state.evict_expired(now_ms, late) == []
    assert holds(room, HOLD_MS - 1)


def test_a_delta_ends_where_its_changes_take_more_than_they_may(room: Room) -> None:
    entering = [enter(f"c{number:04}", {}) for number in range(1_000)]
    each = len(b"{}") * 2 + CHANGE_BYTES
    _, deltas = room.state.run(entering, room.clock.now_ms(), room.clock.wall_ms())
    first = DELTA_BYTES_MAX // each + 1
    assert [len(delta.joins) for delta in deltas] == [first, first, 1_000 - 2 * first]
    assert [delta.seq for delta in deltas] == [1, 2, 3]


def test_leaves_are_counted_with_what_comes_after_them(room: Room) -> None:
    room.do(*(enter(f"c{number:02}", {}, user="x" * 100) for number in range(90)))
    leaving = [leave(f"c{number:02}") for number in range(90)]
    entering = [enter(f"d{number:03}", {}) for number in range(400)]
    _, deltas = room.state.run([*leaving, *entering], room.clock.now_ms(), room.clock.wall_ms())
    gone = 90 * (100 + CHANGE_BYTES)
    first = (DELTA_BYTES_MAX - gone) // (4 + CHANGE_BYTES) + 1
    assert [(len(delta.leaves), len(delta.joins)) for delta in deltas] == [(90, first), (0, 400 - first)]
