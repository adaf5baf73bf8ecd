"""The boundaries of calendar periods in a time zone; pure but for the system's time zones."""

from datetime import date, datetime, timedelta
from typing import Final

from presence_server.rates import Period, zone_of

SECOND_US: Final = 1_000_000
WEEK_DAYS: Final = 7
MONTHS: Final = 12


class Calendar:
    """The periods of one kind in one time zone. Times are µs since 1970; weeks begin on Monday.

    A period begins with its first day's first moment: where clocks skip midnight, when they do.
    Raises `ValueError` for a time zone that this machine does not know.
    """

    def __init__(self, period: Period, tz: str) -> None:
        self._period = period
        self._zone = zone_of(tz)
        self._found = (0, 0, 0)

    def boundaries(self, now_us: int) -> tuple[int, int, int]:
        """Return when the present period began, when it ends and when the next one ends.

        They are computed anew only when the period is another.
        """
        begin, end, _ = self._found
        if not begin <= now_us < end:
            self._found = self._boundaries(now_us)
        return self._found

    def end(self, now_us: int) -> int:
        """Return when the present period ends."""
        return self.boundaries(now_us)[1]

    def _boundaries(self, now_us: int) -> tuple[int, int, int]:
        today = datetime.fromtimestamp(now_us // SECOND_US, self._zone).date()
        first = self._first(today)
        begin, end = self._moment(first), self._moment(second := self._after(first))
        return begin, end, self._moment(self._after(second))

    def _first(self, day: date) -> date:
        """Return the first day of the period that a day is in."""
        if self._period == "day":
            return day
        if self._period == "week":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self._period == "month" else day.replace(month=1, day=1)

    def _after(self, first: date) -> date:
        """Return the first day of the next period."""
        if self._period == "day":
            return first + timedelta(days=1)
        if self._period == "week":
            return first + timedelta(days=WEEK_DAYS)
        if self._period == "year" or first.month == MONTHS:
            return first.replace(year=first.year + 1, month=1)
        return first.replace(month=first.month + 1)

    def _moment(self, day: date) -> int:
        # A midnight that clocks skip is read with the offset of before, which is the moment of the change; of one
        # that comes twice the first is meant (PEP 495, fold 0).
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        return round(midnight.timestamp()) * SECOND_US
