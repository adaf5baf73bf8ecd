"""Rate limits as settings and rules write them: `COUNT/WINDOW`, with an optional `burst N`."""

import re
from dataclasses import dataclass
from typing import Final

UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
WINDOW_MS_MAX: Final = 366 * 24 * 3_600_000
COUNT_MAX: Final = 1_000_000_000
LOG_MAX: Final = 10_000
"""The most that a sliding log counts: it keeps an entry for each unit in its window."""
DAY_MS: Final = 86_400_000
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_RATE = re.compile(r"([0-9]+)/([0-9]+)(ms|s|m|h)(?: +burst +([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` events in `window_ms`; a token bucket holds `burst` at most (None: `count`)."""

    count: int
    window_ms: int
    burst: int | None = None

    def __str__(self) -> str:
        """Write it as the settings do, in the largest unit that fits."""
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
        raise ValueError("expected COUNT/WINDOW, such as 60/60s or 50/1s burst 100 (window: ms, s, m or h)")
    count = _number("the count", match[1], COUNT_MAX)
    window_ms = _number("the window", match[2], WINDOW_MS_MAX // UNITS_MS[match[3]]) * UNITS_MS[match[3]]
    burst = None if match[4] is None else _number("the burst", match[4], COUNT_MAX)
    return Rate(count, window_ms, burst)


def parse_duration(text: str) -> float:
    """Read a duration such as `90s` or `1h`, in s. Raises `ValueError` for what is none, 0 or too long."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no duration: write a number and ms, s, m, h or d, such as 1h')
    unit_ms = UNITS_MS.get(match[2], DAY_MS)
    return _number("the duration", match[1], WINDOW_MS_MAX // unit_ms) * unit_ms / 1_000


def _number(what: str, digits: str, highest: int) -> int:
    # Python refuses to convert more than 4300 digits, with a ValueError that names no setting.
    value = int(digits) if len(digits) <= 20 else highest + 1
    if not 1 <= value <= highest:
        raise ValueError(f"{what} must be from 1 to {highest}")
    return value
