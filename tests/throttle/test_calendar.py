"""Quotas of the calendar: where periods end, in any time zone, and how they are counted."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.rates import PERIODS, Period
from presence_server.throttle.calendar import Calendar
from presence_server.throttle.memory import ThrottleMemoryStore
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule
from tests.support.properties import examples

SECOND = 1_000_000
HOUR = 3_600 * SECOND
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo",
    "Africa/Cairo", "Asia/Beirut", "America/Havana", "America/Asuncion", "Pacific/Apia", "Pacific/Kiritimati",
]  # fmt: skip


def at(text: str, tz: str = "UTC") -> int:
    """Return a moment by the clocks of a zone, µs since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp()) * SECOND


def utc(us: int) -> str:
    return datetime.fromtimestamp(us // SECOND, UTC).isoformat(" ", "minutes")[:16]


@pytest.mark.parametrize(
    ("period", "tz", "now", "boundaries"),
    [
        ("day", "UTC", "2026-02-28 12:00", "2026-02-28 00:00 | 2026-03-01 00:00 | 2026-03-02 00:00"),
        ("week", "UTC", "2026-03-01 12:00", "2026-02-23 00:00 | 2026-03-02 00:00 | 2026-03-09 00:00"),
        ("week", "UTC", "2026-03-02 00:00", "2026-03-02 00:00 | 2026-03-09 00:00 | 2026-03-16 00:00"),
        ("month", "UTC", "2024-02-29 23:59", "2024-02-01 00:00 | 2024-03-01 00:00 | 2024-04-01 00:00"),
        ("month", "UTC", "2025-12-31 00:00", "2025-12-01 00:00 | 2026-01-01 00:00 | 2026-02-01 00:00"),
        ("year", "UTC", "2024-06-01 00:00", "2024-01-01 00:00 | 2025-01-01 00:00 | 2026-01-01 00:00"),
        # Clocks go forward (23 h) and back (25 h) in the night to the 29th of March and the 25th of October 2026.
        ("day", "Europe/Berlin", "2026-03-29 12:00", "2026-03-28 23:00 | 2026-03-29 22:00 | 2026-03-30 22:00"),
        ("day", "Europe/Berlin", "2026-10-25 12:00", "2026-10-24 22:00 | 2026-10-25 23:00 | 2026-10-26 23:00"),
        ("month", "Europe/Berlin", "2026-03-31 23:00", "2026-02-28 23:00 | 2026-03-31 22:00 | 2026-04-30 22:00"),
        ("year", "Asia/Kathmandu", "2026-01-01 00:00", "2025-12-31 18:15 | 2026-12-31 18:15 | 2027-12-31 18:15"),
        # Here clocks skip midnight: the day begins at 01:00 …
        ("day", "Asia/Beirut", "2021-03-28 12:00", "2021-03-27 22:00 | 2021-03-28 21:00 | 2021-03-29 21:00"),
        # … and here midnight comes twice: the day begins with the first.
        ("day", "America/Havana", "2021-11-07 12:00", "2021-11-07 04:00 | 2021-11-08 05:00 | 2021-11-09 05:00"),
    ],
)  # fmt: skip
def test_a_period_ends_where_the_calendars_does(period: Period, tz: str, now: str, boundaries: str) -> None:
    assert [utc(us) for us in Calendar(period, tz).boundaries(at(now, tz))] == boundaries.split(" | ")


@given(
    period=st.sampled_from(PERIODS),
    tz=st.sampled_from(ZONES),
    now=st.integers(at("1990-01-01"), at("2037-01-01")),
)
@examples(1_000)
def test_every_moment_is_in_one_period_that_begins_with_a_new_date(period: Period, tz: str, now: int) -> None:
    calendar, zone = Calendar(period, tz), ZoneInfo(tz)
    begin, end, after = calendar.boundaries(now)
    assert begin <= now < end < after
    for moment in (begin, end - 1, (begin + end) // 2):
        assert Calendar(period, tz).boundaries(moment) == (begin, end, after)
    for boundary in (begin, end, after):
        last = datetime.fromtimestamp(boundary // SECOND - 1, zone).date()
        first = datetime.fromtimestamp(boundary // SECOND, zone).date()
        assert first > last
        assert period != "week" or first.weekday() == 0
        assert period not in ("month", "year") or first.day == 1
        assert period != "year" or first.month == 1


class Counted:
    """A store whose clocks are moved by hand: one that cannot be set, and the time of day."""

    def __init__(self, limit: str, tz: str, now: str) -> None:
        self.rule = Rule("quota", limit, tz=tz)
        self.wall = at(now, tz)
        self.monotonic_us = 0
        self.store = ThrottleMemoryStore(100, lambda: self.monotonic_us, lambda: self.wall)

    def admitted(self, times: int) -> int:
        return sum(self.store.hit_one(self.rule, "k", 1).allowed for _ in range(times))

    def pass_time(self, **units: float) -> None:
        us = timedelta(**units) // timedelta(microseconds=1)
        self.wall += us
        self.monotonic_us += us


def test_a_quota_counts_to_the_end_of_the_day_and_begins_anew() -> None:
    counted = Counted("3/day", "Europe/Berlin", "2026-10-25 00:30")
    assert counted.admitted(5) == 3
    refused = counted.store.peek(counted.rule, "k", 1)
    assert refused.retry_us == refused.reset_us == 24.5 * HOUR
    counted.pass_time(hours=24.4)
    assert counted.admitted(5) == 0
    counted.pass_time(hours=0.2)
    assert counted.admitted(5) == 3
    assert counted.store.peek(counted.rule, "k", 1).reset_us == 23.9 * HOUR


def test_a_clock_that_is_set_back_prolongs_no_day() -> None:
    counted = Counted("3/day", "UTC", "2026-05-02 08:00")
    assert counted.admitted(5) == 3
    counted.wall -= 24 * HOUR
    assert counted.store.peek(counted.rule, "k", 1).retry_us == 16 * HOUR
    counted.pass_time(hours=16.1)
    assert counted.admitted(5) == 3


def test_quotas_that_have_ended_make_room() -> None:
    counted = Counted("3/day", "UTC", "2026-05-02 08:00")
    for n in range(1_000):
        counted.store.hit_one(counted.rule, f"key-{n}", 1)
        counted.pass_time(hours=1)
    assert len(counted.store) <= 30


def test_blocks_charges_refunds_and_resets_work_as_with_any_window() -> None:
    counted = Counted("3/month", "UTC", "2026-02-10 00:00")
    assert counted.store.charge(counted.rule, "k", 9).remaining == 0
    assert counted.store.refund(counted.rule, "k", 2).remaining == 2
    counted.store.block(counted.rule, "k", 30 * 24 * HOUR)
    counted.pass_time(days=29)
    assert counted.admitted(1) == 0
    counted.store.reset(counted.rule, "k")
    assert counted.admitted(9) == 3


def test_a_rules_row_is_made_anew_only_when_the_period_is_another() -> None:
    rule = Rule("quota", "3/year", tz="Europe/Berlin")
    assert row_of(rule) is row_of(rule)
    begin, end, after = row_of(rule).boundaries or (0, 0, 0)
    assert begin < end < after
    assert row_of(Rule("plain", "3/24h")).boundaries is None


def test_rules_are_equal_and_hashed_by_what_they_were_made_of() -> None:
    assert len({Rule("q", "3/day"), Rule("q", "3/day"), Rule("q", "3/day", tz="Europe/Berlin")}) == 2


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"limit": "3/day", "tz": "Europe/Berlim"}, "rule 'q': no time zone 'Europe/Berlim' is known here"),
        ({"limit": "3/day", "tz": "../../etc/passwd"}, "no time zone"),
        ({"limit": "3/day", "tz": ""}, "no time zone"),
        ({"limit": "3/24h", "tz": "Europe/Berlin"}, "a time zone belongs to a calendar quota"),
        ({"limit": "3/day", "algorithm": "sliding"}, "only the fixed window counts by the calendar"),
        ({"limit": "3/day burst 9", "algorithm": "bucket"}, "has no burst"),
    ],
)
def test_a_quota_that_is_wrong_says_what_and_where(fields: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Rule("q", **fields)  # type: ignore[arg-type]  # that is what is tried


def test_a_machine_without_zone_data_says_so_and_counts_in_utc() -> None:
    program = """
import sys, zoneinfo
sys.modules["tzdata"] = None
zoneinfo.reset_tzpath(to=["/nowhere"])
from presence_server.throttle.rule import Rule
from presence_server.throttle.rows import row_of
assert row_of(Rule("q", "3/day")).boundaries is not None
try:
    Rule("q", "3/day", tz="Europe/Berlin")
except ValueError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "tzdata" in done.stdout
    assert {"UTC", "Europe/Berlin"} <= available_timezones()
