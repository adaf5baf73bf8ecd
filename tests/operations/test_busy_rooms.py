"""The largest rooms of a node, found a part at a time."""

from typing import NamedTuple

from presence_server.operations.busy_rooms import BusyRooms


class View(NamedTuple):
    """What is scanned of a view."""

    room: str
    members: int
    users: int


def views(**members: int) -> list[View]:
    """Return views of rooms with so many members, half as many users."""
    return [View(room, n, n // 2) for room, n in members.items()]


def found(busy: BusyRooms) -> list[tuple[str, int, int]]:
    return [(room.room, room.count, room.users) for room in busy.largest]


def test_the_largest_are_named_the_largest_first_and_equal_ones_by_name() -> None:
    busy = BusyRooms(most=3)
    busy.scan_part(views(b=4, a=4, c=9, d=2, empty=0))
    assert found(busy) == [("c", 9, 4), ("a", 4, 2), ("b", 4, 2)]


def test_many_rooms_are_scanned_a_part_at_a_time_and_the_last_complete_scan_counts() -> None:
    busy = BusyRooms(most=1, part=2)
    rooms = views(a=1, b=2, c=3, d=4, e=5)
    busy.scan_part(rooms)
    busy.scan_part(rooms)
    assert found(busy) == []
    busy.scan_part(rooms)
    assert found(busy) == [("e", 5, 2)]
    busy.scan_part(views(a=1, b=2, c=3))
    assert found(busy) == [("e", 5, 2)]
    busy.scan_part([])
    assert found(busy) == [("c", 3, 1)]
    busy.scan_part([])
    assert found(busy) == []


def test_rooms_that_are_as_many_as_a_part_need_one_scan() -> None:
    busy = BusyRooms(most=1, part=2)
    busy.scan_part(views(a=1, b=2))
    assert found(busy) == [("b", 2, 1)]


def test_a_room_that_is_gone_is_not_named_any_more() -> None:
    busy = BusyRooms()
    busy.scan_part(views(a=1))
    busy.scan_part([])
    assert found(busy) == []
