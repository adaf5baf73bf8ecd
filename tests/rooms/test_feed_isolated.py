"""A view of an isolated node: it goes on by itself, and is compared with its room on return."""

from functools import partial

import pytest

from presence_server.presence.roster import Delta, Snapshot
from tests.rooms.following import Following
from tests.support.operations import change, enter

ISOLATED = 99
"""The generation of a room in the memory of an isolated node."""


def isolated(following: Following) -> Following:
    following.feed.isolate(ISOLATED)
    return following


def test_an_isolated_view_shows_what_it_has_and_goes_on_by_itself(live: Following) -> None:
    before = dict(live.roster.records)
    isolated(live)
    assert (live.feed.live, live.feed.loading, live.position) == (True, False, (ISOLATED, 0))
    assert live.roster.records == before
    live.feed.receive_delta(Delta(ISOLATED, 1, 2, 2, updates=(change("a", 2),)))
    assert (live.position, live.asked) == ((ISOLATED, 1), [])


def test_what_waited_for_the_store_waits_no_longer_when_it_is_away(unread: Following) -> None:
    unread.feed.when(7, 100, lambda: unread.note("a moment"))
    unread.feed.when_live(lambda: unread.note("the room"))
    unread.feed.load()
    unread.feed.receive_delta(Delta(7, 50, 0, 0))
    isolated(unread)
    assert unread.reached == ["a moment", "the room"]
    assert (unread.feed.live, unread.feed.loading, unread.feed._buffer) == (True, False, [])
    unread.answer()  # too late
    assert (unread.position, unread.compared) == ((ISOLATED, 0), 0)
    isolated(unread)
    assert len(unread.reached) == 2


def test_what_the_store_knew_is_forgotten_when_it_is_away(live: Following) -> None:
    generation, seq = live.position
    live.feed.note_position(generation, seq + 1, 5_000)
    isolated(live)
    assert not live.feed.behind
    live.feed.read_if_behind(50_000)
    assert live.asked == []


def test_an_outage_in_which_nothing_happened_costs_no_read(live: Following) -> None:
    before = live.position
    isolated(live).feed.rejoin(trusted=True)
    assert (live.feed.loading, live.asked) == (True, [])
    live.feed.when(*before, lambda: live.note("whole again"))
    assert live.reached == []
    live.feed.note_position(*before, 5_000)
    assert (live.feed.loading, live.asked, live.position, live.reached) == (
        False,
        [],
        before,
        ["whole again"],
    )
    live.room.do(enter("c"))
    live.hear()
    assert live.shows


def test_deltas_that_come_before_the_store_has_said_where_the_room_is_are_kept(live: Following) -> None:
    before = live.position
    isolated(live).feed.rejoin(trusted=True)
    live.room.do(enter("c"))
    live.hear()
    assert "c" not in live.roster.records
    live.feed.read_if_behind(50_000)
    live.feed.note_position(*before, 5_000)
    assert (live.position, live.shows, live.asked) == (live.room_position, True, [])


@pytest.mark.parametrize("moved", ["seq", "generation"])
def test_a_room_that_moved_during_an_outage_is_read(live: Following, moved: str) -> None:
    generation, seq = live.position
    isolated(live).feed.rejoin(trusted=True)
    live.feed.note_position(generation + (moved == "generation"), seq + (moved == "seq"), 5_000)
    assert (len(live.asked), live.feed.loading) == (1, True)
    live.answer()
    assert (live.position, live.shows, live.feed.loading) == (live.room_position, True, False)


def test_a_room_that_moved_here_during_an_outage_is_read(live: Following) -> None:
    isolated(live).feed.receive_delta(Delta(ISOLATED, 1, 2, 2))
    live.feed.rejoin(trusted=True)
    assert len(live.asked) == 1


def test_a_store_that_is_not_the_one_of_before_is_read(live: Following) -> None:
    isolated(live).feed.rejoin(trusted=False)
    assert len(live.asked) == 1


@pytest.mark.parametrize("loading", [False, True])
def test_a_view_that_was_not_whole_when_the_store_went_is_read(unread: Following, *, loading: bool) -> None:
    if loading:
        unread.feed.load()
        unread.answer()
        unread.feed.load()
    isolated(unread)
    unread.asked.clear()
    unread.feed.rejoin(trusted=True)
    assert len(unread.asked) == 1


def test_a_view_that_was_never_isolated_is_read_on_return(live: Following) -> None:
    live.feed.rejoin(trusted=True)
    assert len(live.asked) == 1


def test_a_second_outage_before_the_store_has_answered_goes_on_from_the_first(live: Following) -> None:
    before = live.position
    isolated(live).feed.rejoin(trusted=True)
    isolated(live)
    assert not live.feed.loading
    live.feed.note_position(12_345, 1, 5_000)  # no longer an answer to the return
    assert live.asked == []
    live.feed.rejoin(trusted=True)
    live.feed.note_position(*before, 5_000)
    assert (live.position, live.asked) == (before, [])


def test_what_happened_here_in_the_first_of_two_outages_is_not_forgotten_by_the_second(
    live: Following,
) -> None:
    isolated(live).feed.receive_delta(Delta(ISOLATED, 1, 2, 2))
    isolated(live)
    assert live.position == (ISOLATED, 0)
    live.feed.rejoin(trusted=True)
    assert len(live.asked) == 1


def test_a_store_that_was_another_stays_so_until_the_room_was_read(live: Following) -> None:
    before = live.position
    isolated(live).feed.rejoin(trusted=False)
    isolated(live).feed.rejoin(trusted=True)
    assert len(live.asked) == 2
    live.asked.pop(0)
    live.answer()
    isolated(live).feed.rejoin(trusted=True)
    live.feed.note_position(*before, 5_000)
    assert (live.position, live.asked) == (before, [])


def test_a_later_moment_of_the_same_room_says_who_has_left(live: Following) -> None:
    generation, seq = live.position
    assert live.feed.continues(Snapshot(generation, seq, ()))
    assert live.feed.continues(Snapshot(generation, seq + 1, ()))
    assert not live.feed.continues(Snapshot(generation, seq - 1, ()))
    assert not live.feed.continues(Snapshot(generation + 1, seq, ()))


def test_after_an_outage_a_snapshot_is_compared_with_the_moment_before_it(live: Following) -> None:
    generation, seq = live.position
    isolated(live).feed.receive_delta(Delta(ISOLATED, 1, 2, 2))
    live.feed.rejoin(trusted=True)
    assert live.feed.continues(Snapshot(generation, seq, ()))
    assert not live.feed.continues(Snapshot(ISOLATED, 1, ()))
    assert not live.feed.continues(Snapshot(generation, seq - 1, ()))
    live.room.do(enter("c"))
    live.answer()
    assert live.feed.continues(live.snapshot())


def test_a_snapshot_of_another_store_says_nothing_of_who_has_left(live: Following) -> None:
    isolated(live).feed.rejoin(trusted=False)
    assert not live.feed.continues(live.snapshot())
    live.answer()
    assert live.feed.continues(live.snapshot())


def test_a_snapshot_that_comes_on_return_ends_it(live: Following) -> None:
    isolated(live).feed.receive_delta(Delta(ISOLATED + 1, 1, 2, 2))  # a read begins
    live.feed.rejoin(trusted=True)
    live.answer()
    assert (live.feed.loading, live.position) == (False, live.room_position)
    live.feed.note_position(*live.room_position, 5_000)
    assert (live.feed.loading, live.asked) == (False, [])


def test_who_waits_for_a_moment_that_the_store_has_lost_is_answered_when_the_store_says_where_the_room_is() -> (
    None
):
    following = Following()
    following.feed.load()
    following.answer()
    lost, seq = following.position
    following.feed.when(lost + 1, 1, partial(following.note, "joined"))
    following.feed.note_position(lost + 1, 1, 1_000)
    following.feed.note_position(lost, seq, 1_001)
    following.answer()
    assert following.reached == ["joined"]
    following.feed.note_position(lost, seq, 1_002)
    assert following.asked == []
