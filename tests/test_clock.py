"""Monotonic time: a process that was stopped does not judge anybody by the time that it slept."""

import pytest

from presence_server.clock import GAP_MS, STEPS_MAX, Moment, RepeatedTime, ServerClock, SystemClock
from tests.support.handclock import HandClock

HOUR_MS = 3_600_000


class Monotonic:
    """What the operating system says, moved by hand."""

    def __init__(self) -> None:
        self.ms = 5_000

    def __call__(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def system() -> Monotonic:
    return Monotonic()


def test_time_goes_on_while_it_is_read(system: Monotonic) -> None:
    clock = SystemClock(system)
    begun_ms = clock.now_ms()
    for _ in range(10):
        system.ms += GAP_MS
        clock.now_ms()
    assert clock.now_ms() - begun_ms == 10 * GAP_MS


def test_a_gap_does_not_count(system: Monotonic) -> None:
    clock = SystemClock(system)
    begun_ms = clock.now_ms()
    system.ms += GAP_MS + 1
    assert clock.now_ms() == begun_ms
    system.ms += 250
    assert clock.now_ms() == begun_ms + 250


def test_gaps_add_up(system: Monotonic) -> None:
    clock = SystemClock(system)
    begun_ms = clock.now_ms()
    for _ in range(3):
        system.ms += 60_000
        clock.now_ms()
        system.ms += 100
        clock.now_ms()
    assert clock.now_ms() == begun_ms + 300


def test_time_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.now_ms() for _ in range(1_000)]
    assert readings == sorted(readings)


def test_wall_time_is_milliseconds_since_1970() -> None:
    assert 1_700_000_000_000 < SystemClock().wall_ms() < 4_000_000_000_000


def test_the_gaps_are_told(system: Monotonic) -> None:
    clock = SystemClock(system)
    system.ms += GAP_MS
    clock.now_ms()
    assert clock.suspended_ms == 0
    system.ms += 60_000
    clock.now_ms()
    assert clock.suspended_ms == 60_000


def test_a_followed_clock_that_is_put_forward_is_noticed_and_its_delays_are_not(system: Monotonic) -> None:
    clock = SystemClock(system)
    clock.follow(1_000_000)
    system.ms += 500
    clock.follow(1_000_000 + 500 + GAP_MS)
    assert clock.stepped_ms == 0
    clock.follow(9_000_000)
    assert clock.stepped_ms == 9_000_000 - (1_000_000 + 500 + GAP_MS)
    clock.follow(5_000_000)
    assert (clock.stepped_ms, clock.wall_ms()) == (9_000_000 - (1_000_000 + 500 + GAP_MS), 5_000_000)


def test_a_followed_clock_that_is_put_back_tells_times_twice(system: Monotonic) -> None:
    clock = SystemClock(system, lambda: 1_000_000 * 1_000_000)
    clock.follow(1_000_000)
    clock.follow(1_000_000 - GAP_MS)
    assert (len(clock.steps), clock.repeated_time) == (0, RepeatedTime())
    clock.follow(900_000)
    assert clock.steps.furthest_back_ms(0) == 1_000_000 - GAP_MS - 900_000
    twice = RepeatedTime(900_000, 1_000_000 - GAP_MS)
    assert clock.repeated_time == twice
    assert [twice.earliest_ms(ms) for ms in (900_000, 900_001, 1_000_000 - GAP_MS, 1_000_000)] == [
        900_000, 900_000, 900_000, 1_000_000
    ]  # fmt: skip
    clock.follow(500_000)  # before it has come to where it was
    assert clock.repeated_time == RepeatedTime(500_000, twice.end_ms)
    clock.follow(2_000_000)
    clock.follow(1_900_000)
    assert clock.repeated_time == RepeatedTime(1_900_000, 2_000_000)


def test_a_moment_is_compared_by_the_clock_that_was_put_back_since(system: Monotonic) -> None:
    clock = SystemClock(system)
    clock.follow(1_000_000)
    before = Moment.now(clock)
    assert (before.was_by(1_000_000, clock), before.was_by(999_999, clock)) == (True, False)
    clock.follow(900_000)
    after = Moment.now(clock)
    assert (before.was_by(900_000, clock), before.was_by(899_999, clock)) == (True, False)
    assert (after.was_by(900_000, clock), after.was_by(899_999, clock)) == (True, False)


def test_a_clock_that_goes_to_and_fro_makes_a_moment_no_older_than_it_was_back(system: Monotonic) -> None:
    clock = SystemClock(system)
    clock.follow(1_000_000)
    moment = Moment.now(clock)
    for _ in range(3):
        clock.follow(990_000)
        clock.follow(1_000_000)
    assert (moment.was_by(990_000, clock), moment.was_by(989_999, clock)) == (True, False)


def test_a_clock_that_is_put_forward_and_back_again_makes_no_moment_older(system: Monotonic) -> None:
    clock = SystemClock(system)
    clock.follow(1_000_000)
    moment = Moment.now(clock)
    clock.follow(9_000_000)
    clock.follow(1_000_000)
    assert (moment.was_by(1_000_000, clock), moment.was_by(999_999, clock)) == (True, False)


def test_of_many_steps_the_first_are_forgotten(system: Monotonic) -> None:
    clock = SystemClock(system, lambda: 1_000_000 * 1_000_000)
    clock.follow(1_000_000)
    for i in range(STEPS_MAX):
        clock.follow(1_000_000 - 5_000 * (i + 1))
    last = Moment.now(clock)
    clock.follow(100_000)
    assert len(clock.steps) == STEPS_MAX + 1
    assert last.was_by(100_000, clock)
    assert not last.was_by(99_999, clock)
    assert clock.steps.furthest_back_ms(0) == clock.steps.furthest_back_ms(2)


def test_each_server_has_a_clock_of_its_own_over_that_of_the_process() -> None:
    process = HandClock()
    one, other = ServerClock(process), ServerClock(process)
    assert one.wall_ms() == process.wall_ms()
    one.follow(1_000_000)
    other.follow(5_000_000)
    process.move(2_000)
    assert (one.wall_ms(), other.wall_ms()) == (1_002_000, 5_002_000)
    assert one.now_ms() == process.now_ms()
    other.follow(5_062_000)
    assert (one.stepped_ms, other.stepped_ms) == (0, 60_000)


@pytest.mark.parametrize("ahead_ms", [-2 * HOUR_MS, 2 * HOUR_MS])
def test_what_the_machines_clock_told_before_another_was_followed_is_as_old_as_it_is(
    system: Monotonic, ahead_ms: int
) -> None:
    clock = SystemClock(system, lambda: (system.ms + ahead_ms + HOUR_MS * 10) * 1_000_000)
    opened, issued_ms = Moment.now(clock), clock.wall_ms()
    system.ms += 500
    clock.follow(HOUR_MS * 10)
    system.ms += 500
    assert opened.was_by(clock.wall_ms(), clock)
    assert clock.repeated_time.earliest_ms(issued_ms) <= clock.wall_ms()
    assert clock.stepped_ms == 0  # nothing expires by a clock that was not followed yet
    system.ms += 500
    after = Moment.now(clock)
    assert not after.was_by(clock.wall_ms() - 1, clock)
