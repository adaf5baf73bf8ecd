"""When a node has which room swept."""

import pytest

from presence_server.presence.sweeps import SWEEP_RETRY_MS, SweepSchedule

NOW_MS = 1_000_000


@pytest.fixture
def schedule() -> SweepSchedule:
    schedule = SweepSchedule()
    schedule.add_room("lobby")
    return schedule


def test_a_room_is_swept_once_its_next_member_may_have_expired(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    assert schedule.take_due_rooms(NOW_MS - 1) == []
    assert schedule.take_due_rooms(NOW_MS) == ["lobby"]


def test_only_watched_rooms_are_swept(schedule: SweepSchedule) -> None:
    schedule.expect("other", NOW_MS)
    schedule.expect("lobby", NOW_MS)
    schedule.remove_room("lobby")
    assert schedule.take_due_rooms(NOW_MS) == []
    assert len(schedule) == 0


def test_a_room_with_nobody_to_expire_is_not_swept(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    schedule.expect("lobby", 0)
    assert schedule.take_due_rooms(NOW_MS) == []


def test_an_expiry_that_was_put_off_is_waited_for(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    schedule.expect("lobby", NOW_MS + 500)
    assert schedule.take_due_rooms(NOW_MS) == []
    assert schedule.take_due_rooms(NOW_MS + 499) == []
    assert schedule.take_due_rooms(NOW_MS + 500) == ["lobby"]


def test_an_expiry_that_was_brought_forward_is_not_waited_for(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS + 500)
    schedule.expect("lobby", NOW_MS)
    assert schedule.take_due_rooms(NOW_MS) == ["lobby"]


def test_a_sweep_that_is_not_answered_is_asked_for_again_after_a_while(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    assert schedule.take_due_rooms(NOW_MS) == ["lobby"]
    assert schedule.take_due_rooms(NOW_MS + SWEEP_RETRY_MS - 1) == []
    assert not schedule.begin_sweep("lobby", NOW_MS + SWEEP_RETRY_MS - 1)
    assert schedule.take_due_rooms(NOW_MS + SWEEP_RETRY_MS) == ["lobby"]


def test_a_sweep_that_was_answered_may_be_followed_by_another_at_once(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    schedule.take_due_rooms(NOW_MS)
    schedule.note_swept("lobby")
    assert schedule.begin_sweep("lobby", NOW_MS)
    schedule.expect("lobby", NOW_MS + 500)
    schedule.note_swept("lobby")
    assert not schedule.begin_sweep("lobby", NOW_MS)
    assert schedule.take_due_rooms(NOW_MS + 500) == ["lobby"]


def test_a_clock_that_steps_back_does_not_keep_a_room_from_being_swept(schedule: SweepSchedule) -> None:
    schedule.expect("lobby", NOW_MS)
    schedule.take_due_rooms(NOW_MS)
    schedule.expect("lobby", NOW_MS - 500_000)
    assert schedule.take_due_rooms(NOW_MS - 500_000) == ["lobby"]


def test_rooms_that_are_never_due_leave_no_queue(schedule: SweepSchedule) -> None:
    for n in range(5_000):
        schedule.expect("lobby", NOW_MS + n)
        schedule.take_due_rooms(NOW_MS + n - 1)
    assert len(schedule._queue) <= 1


def test_a_rooms_size_is_what_was_last_said_of_it(schedule: SweepSchedule) -> None:
    assert schedule.member_count("lobby") == schedule.member_count("other") == 0
    schedule.note_members("lobby", 7)
    schedule.note_members("other", 7)
    assert (schedule.member_count("lobby"), schedule.member_count("other")) == (7, 0)


def test_rooms_that_are_forgotten_leave_no_queue(schedule: SweepSchedule) -> None:
    for n in range(5_000):
        schedule.add_room(f"room-{n}")
        schedule.expect(f"room-{n}", NOW_MS + 3_600_000)
        schedule.remove_room(f"room-{n}")
    assert len(schedule._queue) <= 2
    schedule.expect("lobby", NOW_MS)
    assert schedule.take_due_rooms(NOW_MS) == ["lobby"]
