"""How a view keeps up with its room: by deltas in order, by snapshots after gaps."""

import msgspec
import pytest

from presence_server.presence.roster import Delta, Snapshot
from presence_server.rooms.feed import BEHIND_MS, BUFFERED_MAX
from tests.rooms.following import Following
from tests.support.operations import change, enter, leave

# --- in order ---


def test_a_feed_begins_with_a_snapshot(unread: Following) -> None:
    assert (unread.feed.live, unread.feed.loading) == (False, False)
    unread.feed.load()
    assert (unread.feed.live, unread.feed.loading) == (False, True)
    assert unread.position == (0, 0)
    unread.answer()
    assert (unread.feed.live, unread.feed.loading) == (True, False)
    assert unread.position == unread.room_position
    assert unread.shows


def test_deltas_in_order_move_the_view_without_a_read(live: Following) -> None:
    live.room.do(enter("c"), change("a", 2), leave("b"))
    live.hear()
    assert (live.position, live.shows, live.asked, live.compared) == (live.room_position, True, [], 1)


def test_a_delta_that_comes_again_changes_nothing_and_reads_nothing(live: Following) -> None:
    live.room.do(enter("c"), leave("c"))
    live.hear()
    live.feed.receive_delta(live.room.last)
    assert (live.position, live.shows, live.asked) == (live.room_position, True, [])


def test_a_delta_that_was_lost_is_made_up_for_by_one_read(live: Following) -> None:
    live.room.do(enter("c"))
    live.lose()
    live.room.do(enter("d"), enter("e"))
    live.hear()
    assert (len(live.asked), live.feed.loading, live.feed.live) == (1, True, True)
    live.answer()
    assert (live.position, live.shows, live.asked) == (live.room_position, True, [])
    live.room.do(enter("f"))
    live.hear()
    assert (live.shows, live.asked) == (True, [])


def test_a_delta_that_only_says_when_somebody_may_expire_does_not_stand_for_the_step_that_was_lost(
    live: Following,
) -> None:
    live.room.do(leave("a"))
    live.lose()
    live.feed.receive_delta(Delta(*live.room_position, 1, 1, due_ms=10))
    live.answer()
    assert (live.position, live.shows, live.asked) == (live.room_position, True, [])


def test_a_room_that_the_store_says_is_further_back_for_a_while_is_read(live: Following) -> None:
    generation, seq = live.position
    live.room.do(enter("c"), enter("d"))
    live.hear()
    for now_ms in (0, BEHIND_MS - 1):
        live.feed.note_position(generation, seq + 1, now_ms)
        live.feed.read_if_behind(now_ms)
    assert live.asked == []
    live.feed.note_position(generation, seq + 1, BEHIND_MS)
    assert len(live.asked) == 1


@pytest.mark.parametrize("lost", [1, 2])
def test_a_room_that_announces_anew_what_it_has_announced_is_read_at_once(live: Following, lost: int) -> None:
    live.room.do(enter("c"), enter("d"))
    live.hear()
    delta = msgspec.structs.replace(live.room.deltas[-lost], joins=(live.room.record("a"),))
    live.feed.receive_delta(delta)
    assert len(live.asked) == 1
    assert not live.feed.continues(live.snapshot())  # however far it has come again meanwhile
    live.answer(Snapshot(delta.generation, delta.seq, delta.joins))
    assert (live.feed.seq, set(live.roster.records), live.asked) == (delta.seq, {"a"}, [])


def test_a_room_that_goes_back_while_it_is_read_is_read_again(live: Following) -> None:
    live.room.do(enter("c"), enter("d"))
    live.hear()
    live.feed.load()
    live.feed.receive_delta(live.room.deltas[-2])
    live.answer()
    assert (live.feed.loading, live.compared) == (True, 1)
    live.answer()
    assert (live.feed.loading, live.compared, live.shows) == (False, 2, True)


def test_answers_that_deltas_have_overtaken_do_not_make_a_busy_room_read(live: Following) -> None:
    generation, seq = live.position
    for step in range(10):
        live.room.do(change("a", step + 2))
        live.hear()
        live.feed.note_position(generation, seq + step, step * BEHIND_MS)
    assert (live.asked, live.shows) == ([], True)


def test_a_room_made_anew_is_read(live: Following) -> None:
    live.feed.receive_delta(Delta(live.feed.generation + 1, live.feed.seq + 1, 0, 0))
    assert len(live.asked) == 1
    live.answer(Snapshot(8, 1, ()))
    assert live.position == (8, 1)
    assert live.roster.records == {}


def test_what_comes_while_a_snapshot_is_read_follows_it(live: Following) -> None:
    live.feed.load()
    live.room.do(enter("c"))
    earlier = live.snapshot()
    live.room.do(enter("d"), leave("a"))
    live.hear()
    assert "c" not in live.roster.records
    live.answer(earlier)
    assert (live.position, live.shows, live.asked) == (live.room_position, True, [])


def test_a_gap_in_what_came_while_a_snapshot_was_read_is_read_again(live: Following) -> None:
    earlier = live.snapshot()
    live.feed.load()
    live.room.do(enter("c"))
    live.lose()
    live.room.do(enter("d"))
    live.hear()
    live.answer(earlier)
    assert (live.feed.loading, len(live.asked)) == (True, 1)
    live.answer()
    assert live.shows


def test_only_the_last_read_counts(live: Following) -> None:
    old = live.snapshot()
    live.feed.load()
    live.room.do(leave("a"))
    live.lose()
    live.feed.load()
    live.answer(old)
    assert live.feed.loading
    assert live.compared == 1
    live.answer()
    assert (live.feed.loading, live.shows, live.compared) == (False, True, 2)


@pytest.mark.parametrize("over", [0, 1])
def test_so_many_deltas_are_kept_while_a_snapshot_is_read(live: Following, over: int) -> None:
    earlier = live.snapshot()
    live.feed.load()
    for number in range(BUFFERED_MAX + over):
        live.room.do(change("a", 2 + number))
    live.hear()
    assert len(live.asked) == 1 + over
    assert len(live.feed._buffer) == (0 if over else BUFFERED_MAX)
    live.answer(earlier)
    assert live.feed.loading is (over == 1)
    if over:
        live.answer()
    assert live.shows


# --- waiting for a moment ---


def test_who_waits_for_a_moment_that_is_shown_waits_no_longer(live: Following) -> None:
    generation, seq = live.position
    live.feed.when(generation, seq, lambda: live.note("now"))
    live.feed.when(generation, seq - 1, lambda: live.note("before"))
    assert live.reached == ["now", "before"]


def test_who_waits_for_a_moment_is_called_once_when_it_comes(live: Following) -> None:
    generation, seq = live.position
    live.feed.when(generation, seq + 2, lambda: live.note("second"))
    live.feed.when(generation, seq + 1, lambda: live.note("first"))
    live.room.do(enter("c"))
    live.hear()
    assert live.reached == ["first"]
    live.room.do(enter("d"), enter("e"))
    live.hear()
    assert live.reached == ["first", "second"]


def test_a_snapshot_that_was_asked_for_later_ends_all_waiting(live: Following) -> None:
    live.feed.when(12_345, 1, lambda: live.note("another life of the room"))
    live.room.do(enter("c"))
    live.hear()
    assert live.reached == []
    live.feed.load()
    assert live.reached == []
    live.answer()
    assert live.reached == ["another life of the room"]


def test_a_snapshot_that_was_asked_for_before_says_nothing_of_a_later_moment(live: Following) -> None:
    earlier = live.snapshot()
    live.feed.load()
    generation, seq = live.position
    live.feed.when(generation, seq + 1, lambda: live.note("c"))
    live.feed.when(generation, seq, lambda: live.note("there already"))
    assert live.reached == []  # what is shown may not be what is read
    live.answer(earlier)
    assert live.reached == ["there already"]
    live.room.do(enter("c"))
    live.hear()
    assert live.reached == ["there already", "c"]


def test_who_waits_for_the_room_itself_is_called_when_it_is_shown(unread: Following) -> None:
    unread.feed.when_live(lambda: unread.note("early"))
    unread.feed.load()
    unread.feed.when_live(lambda: unread.note("loading"))
    assert unread.reached == []
    unread.answer()
    assert unread.reached == ["early", "loading"]
    unread.feed.when_live(lambda: unread.note("late"))
    assert unread.reached == ["early", "loading", "late"]
    unread.feed.load()
    unread.feed.when_live(lambda: unread.note("read again"))
    assert len(unread.reached) == 3
    unread.answer()
    assert unread.reached[3:] == ["read again"]


# --- a last delta that was lost ---


def test_what_the_store_knows_and_no_delta_brings_is_read_after_a_while(live: Following) -> None:
    live.room.do(enter("c"))
    live.lose()
    live.feed.note_position(*live.room_position, 5_000)
    assert live.feed.behind
    live.room.do(enter("d"))
    live.lose()
    live.feed.note_position(*live.room_position, 5_900)
    live.feed.read_if_behind(5_000 + BEHIND_MS - 1)
    assert live.asked == []
    live.feed.read_if_behind(5_000 + BEHIND_MS)
    assert (len(live.asked), live.feed.behind) == (1, False)
    live.feed.read_if_behind(5_000 + 9 * BEHIND_MS)
    assert len(live.asked) == 1
    live.answer()
    assert live.shows


def test_another_generation_that_the_store_knows_is_read_after_a_while(live: Following) -> None:
    generation, seq = live.position
    live.feed.note_position(generation + 1, seq, 5_000)
    live.feed.read_if_behind(5_000 + BEHIND_MS)
    assert len(live.asked) == 1


def test_a_view_that_is_where_the_store_says_is_not_behind(live: Following) -> None:
    told = []
    generation, seq = live.position
    for known in (seq, seq + 1, seq):
        live.feed.note_position(generation, known, 5_000)
        told.append(live.feed.behind)
    assert told == [False, True, False]
    live.feed.read_if_behind(50_000)
    assert live.asked == []


@pytest.mark.parametrize("deltas", [1, 2])
def test_a_delta_that_comes_late_makes_a_read_needless(live: Following, deltas: int) -> None:
    live.room.do(enter("c"))
    live.feed.note_position(*live.room_position, 5_000)
    if deltas == 2:
        live.room.do(enter("d"))
    live.hear()
    live.feed.read_if_behind(5_000 + 9 * BEHIND_MS)
    assert (live.asked, live.feed.behind) == ([], False)


def test_each_time_that_a_view_is_behind_has_its_own_while(live: Following) -> None:
    generation, seq = live.position
    live.feed.note_position(generation, seq + 1, 5_000)
    live.room.do(enter("c"))
    live.hear()
    live.feed.read_if_behind(5_500)
    live.feed.note_position(generation, seq + 2, 9_000)
    live.feed.read_if_behind(9_000 + BEHIND_MS - 1)
    assert live.asked == []
    live.feed.read_if_behind(9_000 + BEHIND_MS)
    assert len(live.asked) == 1


def test_a_view_that_is_being_read_is_not_read_again_for_being_behind(live: Following) -> None:
    generation, seq = live.position
    live.feed.note_position(generation, seq + 1, 5_000)
    live.feed.load()
    live.feed.read_if_behind(50_000)
    assert len(live.asked) == 1
