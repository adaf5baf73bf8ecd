"""Awake time: a process that was stopped does not judge anybody by the time that it slept."""

import pytest

from presence_server.clock import GAP_MS, SystemClock


class Monotonic:
    """What the operating system says, moved by hand."""

    def __init__(self) -> None:
        self.ms = 5_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    monotonic = Monotonic()
    monkeypatch.setattr(SystemClock, "_monotonic_ms", staticmethod(monotonic))
    return monotonic


def test_time_goes_on_while_it_is_read(system: Monotonic) -> None:
    clock = SystemClock()
    begun_ms = clock.now_ms()
    for _ in range(10):
        system.ms += GAP_MS
        clock.now_ms()
    assert clock.now_ms() - begun_ms == 10 * GAP_MS


def test_a_gap_does_not_count(system: Monotonic) -> None:
    clock = SystemClock()
    begun_ms = clock.now_ms()
    system.ms += GAP_MS + 1
    assert clock.now_ms() == begun_ms
    system.ms += 250
    assert clock.now_ms() == begun_ms + 250


def test_gaps_add_up(system: Monotonic) -> None:
    clock = SystemClock()
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
