"""Rates as text and as numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.rates import COUNT_MAX, DAY_MS, PERIODS, PERIODS_MS, WINDOW_MS_MAX, Rate, parse_rate

counts = st.integers(1, COUNT_MAX)
rates = st.builds(Rate, counts, st.integers(1, WINDOW_MS_MAX), st.none() | counts) | st.builds(
    lambda count, period: Rate(count, PERIODS_MS[period], None, period), counts, st.sampled_from(PERIODS)
)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60/60s", Rate(60, 60_000)),
        ("1/500ms", Rate(1, 500)),
        ("5/5m", Rate(5, 300_000)),
        ("7/1h", Rate(7, 3_600_000)),
        ("50/1s burst 100", Rate(50, 1_000, 100)),
        ("5/minute", Rate(5, 60_000)),
        ("20/second burst 30", Rate(20, 1_000, 30)),
        ("100/hour", Rate(100, 3_600_000)),
        ("10k/60s", Rate(10_000, 60_000)),
        ("1000/day", Rate(1_000, DAY_MS, None, "day")),
        ("500/week", Rate(500, 7 * DAY_MS, None, "week")),
        ("1M/month", Rate(1_000_000, 31 * DAY_MS, None, "month")),
        ("10k/year", Rate(10_000, 366 * DAY_MS, None, "year")),
        ("", None),
    ],
)
def test_a_rate_is_count_window_and_burst(text: str, rate: Rate | None) -> None:
    assert parse_rate(text) == rate


@given(rates)
def test_a_rate_that_is_written_reads_as_itself(rate: Rate) -> None:
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    [
        " ", "60", "60/", "/60s", "60/60", "60/60d", "60/1.5s", "-1/60s", "6e1/60s", " 60/60s", "60/60s ",
        "60 / 60s", "60/60s burst", "60/60s burst x", "60/60sburst 3", "60/60s burst 3 burst 4", "60/60s\n",
        "٦/60s", "5/days", "5/1day", "5/Day", "k/day", "1G/day", "1kk/day", "1 k/day", "5/fortnight",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(ValueError, match="expected COUNT/WINDOW"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0/60s", "the count"),
        ("60/0s", "the window"),
        ("60/60s burst 0", "the burst"),
        (f"{COUNT_MAX + 1}/1s", "the count"),
        (f"{COUNT_MAX // 1_000 + 1}k/day", "the count"),
        ("1/8785h", "the window"),
        (f"{'9' * 5000}/1s", "the count"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^{what} must be from 1 to"):
        parse_rate(text)


@given(st.text())
def test_no_text_does_anything_but_parse_or_raise_value_error(text: str) -> None:
    try:
        rate = parse_rate(text)
    except ValueError:
        return
    assert rate is None or parse_rate(str(rate)) == rate


def test_a_calendar_quota_has_no_burst() -> None:
    with pytest.raises(ValueError, match="a day of the calendar has no burst"):
        parse_rate("5/day burst 9")
