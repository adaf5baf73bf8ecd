"""Rate limits as settings and rules write them: `COUNT/WINDOW`, with an optional `burst N`; or `COUNT/PERIOD`.

`1000/day`, `500/week`, `1M/month` and `10k/year` are calendar quotas: their windows end where the calendar's
do, in a time zone. `second`, `minute` and `hour` are windows of that length.
"""

import re
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Final, Literal, TypeAlias, get_args

CountingAlgorithm: TypeAlias = Literal["fixed", "sliding", "counter", "bucket"]
"""The algorithm that counts a rate: fixed window, sliding log, sliding window counter, token bucket (GCRA)."""
OnError: TypeAlias = Literal["open", "local", "closed", "share"]
"""The fallback for a decision that the shared store has not made in time; see `throttle/fallback.py`."""
UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
WINDOW_MS_MAX: Final = 366 * 24 * 3_600_000
COUNT_MAX: Final = 1_000_000_000
LOG_MAX: Final = 10_000
"""The most that a sliding log counts: it keeps an entry for each unit in its window."""
DAY_MS: Final = 86_400_000
Period: TypeAlias = Literal["day", "week", "month", "year"]
PERIODS: Final[tuple[Period, ...]] = get_args(Period)
PERIODS_MS: Final[dict[Period, int]] = {
    "day": DAY_MS,
    "week": 7 * DAY_MS,
    "month": 31 * DAY_MS,
    "year": 366 * DAY_MS,
}
"""The calendar's periods and their nominal length: the longest, but for a change of the clocks."""
WORDS_MS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000}
MULTIPLIERS: Final = {"": 1, "k": 1_000, "M": 1_000_000}
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_RATE = re.compile(
    r"(?P<count>[0-9]+)(?P<multiplier>[kM]?)/"
    r"(?:(?P<window>[0-9]+)(?P<unit>ms|s|m|h)|(?P<word>second|minute|hour|day|week|month|year))"
    r"(?: +burst +(?P<burst>[0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` events in `window_ms`; a token bucket holds `burst` at most (None: `count`).

    With a `period` the window is the calendar's, and `window_ms` the period's nominal length.
    """

    count: int
    window_ms: int
    burst: int | None = None
    period: Period | None = None

    def __str__(self) -> str:
        """Write it as the settings do, in the largest unit that fits."""
        if self.period is not None:
            return f"{self.count}/{self.period}"
        unit = next(unit for unit in reversed(UNITS_MS) if self.window_ms % UNITS_MS[unit] == 0)
        burst = "" if self.burst is None else f" burst {self.burst}"
        return f"{self.count}/{self.window_ms // UNITS_MS[unit]}{unit}{burst}"


def parse_rate(text: str) -> Rate | None:
    """Read a rate; "" is no limit.

    Raises `ValueError` when `text` is no rate, or a number in it is 0 or too large.
    """
    if text == "":
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected COUNT/WINDOW, such as 60/60s, 50/1s burst 100 (window: ms, s, m or h), 5/minute or 10k/day"
        )
    multiplier = MULTIPLIERS[match["multiplier"]]
    count = _number("the count", match["count"], COUNT_MAX // multiplier) * multiplier
    burst = None if match["burst"] is None else _number("the burst", match["burst"], COUNT_MAX)
    word = match["word"]
    if word is None:
        unit_ms = UNITS_MS[match["unit"]]
        return Rate(count, _number("the window", match["window"], WINDOW_MS_MAX // unit_ms) * unit_ms, burst)
    for period in PERIODS:
        if word == period:
            if burst is not None:
                raise ValueError(f"a {period} of the calendar has no burst")
            return Rate(count, PERIODS_MS[period], None, period)
    return Rate(count, WORDS_MS[word], burst)


def parse_duration(text: str) -> float:
    """Read a duration such as `90s` or `1h`, in s. Raises `ValueError` for what is none, 0 or too long."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no duration: write a number and ms, s, m, h or d, such as 1h')
    unit_ms = UNITS_MS.get(match[2], DAY_MS)
    return _number("the duration", match[1], WINDOW_MS_MAX // unit_ms) * unit_ms / 1_000


def zone_of(tz: str) -> tzinfo:
    """Return a time zone by its name. Raises `ValueError` where this machine does not know it."""
    if tz == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - few rules need it

    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"no time zone {tz!r} is known here: names read like Europe/Berlin; where none is found, the machine "
            "lacks the zone data (system package or PyPI package tzdata)"
        ) from None


def _number(what: str, digits: str, highest: int) -> int:
    # Python refuses to convert more than 4300 digits, with a ValueError that names no setting.
    value = int(digits) if len(digits) <= 20 else highest + 1
    if not 1 <= value <= highest:
        raise ValueError(f"{what} must be from 1 to {highest}")
    return value
