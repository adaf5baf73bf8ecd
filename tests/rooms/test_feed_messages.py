"""When a view delivers messages whose senders it does not show yet."""

from presence_server.rooms.feed import BUFFERED_MAX, HELD_MAX
from tests.rooms.following import Following
from tests.support.operations import change, enter, leave


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
    live.feed.isolate(99)
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
