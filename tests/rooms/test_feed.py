"""How a view keeps up with its room: by deltas in order, by snapshots after gaps, alone and on return."""

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from presence_server.presence.roster import Delta, Roster, Snapshot, difference
from presence_server.rooms.feed import BEHIND_MS, BUFFERED_MAX, HELD_MAX, Feed
from tests.presence.room import Room
from tests.support.operations import change, enter, leave

if TYPE_CHECKING:
    from collections.abc import Callable

ISOLATED = 99
"""The generation of a room in the memory of an isolated node."""


class Following:
    """A feed of a room of the real rules; its reads are answered by hand, `lose` keeps deltas from it."""

    def __init__(self) -> None:
        self.room = Room()
        self.roster = Roster()
        self.asked: list[Callable[[Snapshot], None]] = []
        self.compared = 0
        self.reached: list[str] = []
        self.messages: list[tuple[str, bool]] = []
        """Senders of the messages that were delivered, and whether each was known then."""
        is_known = self.roster.records.__contains__
        self.feed = Feed(self.asked.append, self.roster.apply, self._compare, is_known)
        self._heard = 0

    def _compare(self, snapshot: Snapshot) -> None:
        self.compared += 1
        self.roster.apply(difference(self.roster, snapshot))

    def snapshot(self) -> Snapshot:
        """Return the room as it is."""
        state = self.room.state
        return Snapshot(state.generation, state.seq, tuple(state.roster.records.values()))

    def answer(self, snapshot: Snapshot | None = None) -> None:
        """Answer the read that has waited longest."""
        self.asked.pop(0)(snapshot or self.snapshot())

    def lose(self) -> None:
        """Let what was announced so far not arrive."""
        self._heard = len(self.room.deltas)

    def hear(self) -> None:
        """Let what was announced arrive."""
        deltas, self._heard = self.room.deltas[self._heard :], len(self.room.deltas)
        for delta in deltas:
            self.feed.receive_delta(delta)

    def say(self, cid: str) -> None:
        """Let a message of `cid` arrive."""
        self.feed.receive_message(cid, lambda: self.messages.append((cid, cid in self.roster.records)))

    def note(self, name: str) -> None:
        self.reached.append(name)

    @property
    def position(self) -> tuple[int, int]:
        """Where the feed is."""
        return self.feed.generation, self.feed.seq

    @property
    def shows(self) -> bool:
        """Whether the view is the room as it is."""
        return self.roster.records == self.room.state.roster.records

    @property
    def room_position(self) -> tuple[int, int]:
        """Where the room is."""
        return self.room.state.generation, self.room.state.seq


@pytest.fixture
def unread() -> Following:
    following = Following()
    following.room.do(enter("a"), enter("b"))
    following.lose()
    return following


@pytest.fixture
def live(unread: Following) -> Following:
    unread.feed.load()
    unread.answer()
    return unread


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


# --- isolated, and back ---


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


# --- messages of members that are not known yet ---


def test_a_message_is_delivered_at_once_unless_its_sender_may_be_on_its_way(live: Following) -> None:
    live.say("a")
    live.say("c")
    live.feed.load()
    live.say("b")
    assert live.messages == [("a", True), ("c", False), ("b", True)]


def test_messages_during_a_read_come_after_the_joins_of_their_senders_and_in_their_order(
    live: Following,
) -> None:
    live.feed.load()
    before = live.snapshot()
    for cid in ("c", "d"):
        live.room.do(enter(cid))
        live.hear()
        live.say(cid)
    live.say("d")
    assert live.messages == []
    live.answer(before)
    assert live.messages == [("c", True), ("d", True), ("d", True)]


def test_a_message_comes_before_the_leave_that_was_announced_after_it(live: Following) -> None:
    live.feed.load()
    before = live.snapshot()
    live.room.do(enter("c"))
    live.hear()
    live.say("c")
    live.room.do(leave("c"))
    live.hear()
    live.answer(before)
    assert live.messages == [("c", True)]
    assert live.shows


def test_a_message_waits_on_where_a_gap_has_the_room_read_again(live: Following) -> None:
    live.feed.load()
    before = live.snapshot()
    live.room.do(enter("c"))
    live.lose()
    live.room.do(enter("d"))
    live.hear()
    live.say("c")
    live.say("d")
    live.answer(before)
    assert live.messages == []
    live.answer()
    assert live.messages == [("c", True), ("d", True)]


def test_messages_wait_on_where_more_deltas_came_than_are_kept(live: Following) -> None:
    live.feed.load()
    live.room.do(enter("c"))
    live.hear()
    live.say("c")
    for version in range(2, BUFFERED_MAX + 3):
        live.room.do(change("a", version))
        live.hear()
    live.asked.pop(0)
    live.answer()
    assert live.messages == [("c", True)]
    assert live.shows


def test_no_more_messages_are_kept_than_so_many_and_none_is_lost(live: Following) -> None:
    live.feed.load()
    for number in range(HELD_MAX + 1):
        live.say(f"stranger {number}")
    assert [cid for cid, _ in live.messages] == [f"stranger {number}" for number in range(HELD_MAX + 1)]
    live.room.do(enter("c"))
    live.hear()
    live.say("c")
    live.answer()
    assert live.messages[-1] == ("c", True)


def test_messages_that_wait_are_dropped_on_a_node_without_contact(live: Following) -> None:
    live.feed.load()
    live.say("c")
    live.feed.isolate(ISOLATED)
    live.feed.rejoin(trusted=False)
    live.say("d")
    live.asked.pop(0)
    live.answer()
    assert live.messages == [("d", False)]


def test_a_message_of_a_sender_that_the_room_never_shows_is_delivered(live: Following) -> None:
    live.feed.load()
    live.say("c")
    live.answer()
    assert live.messages == [("c", False)]
