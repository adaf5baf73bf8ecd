"""The keys that are hit, or refused, most: counted in this process, in bounded memory, at no cost to the store.

Space-Saving (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams, 2005):
an item that is not counted takes over the smallest count, as its error. Here the smaller half goes at
once, so that a hit costs one look into a table and no search for the smallest.
"""

from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter
from typing import Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

By = Literal["hits", "refused"]
CAPACITY: Final = 1_000
"""Keys that are kept for certain: each has at least one in so many of all hits."""
WINDOW_S: Final = 60.0
PUBLISHED_MAX: Final = 50
"""Keys that a node tells the others."""
PUBLISHED_EVERY_S: Final = 5.0
PUBLISHED_KEPT_MS: Final = 15_000
"""The store keeps the last report of a node for this long."""
Item = TypeVar("Item", bound=Hashable)


class TalkerCount(NamedTuple, Generic[Item]):
    """An item that came `most` times at most, and `most - error` times at least."""

    item: Item
    most: int
    error: int


class SpaceSaving(Generic[Item]):
    """Counts the most frequent of a stream.

    Whatever comes more often than once in `capacity` is counted; no count is too high by more than the stream's
    length divided by `capacity`, and none is too low. Holds at most `2 * capacity` items.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.floor = 0
        """The most that an item which is not counted can have come."""
        self.highest: dict[Item, int] = {}
        """The most that each counted item can have come; a caller that finds its item here may count it here."""
        self._capacity = capacity
        self._errors: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self.highest)

    def count_item(self, item: Item) -> None:
        """Count an item once more."""
        counts = self.highest
        count = counts.get(item)
        if count is None:
            if len(counts) >= 2 * self._capacity:
                self._evict()
            count = self.floor
            if count:
                self._errors[item] = count
        counts[item] = count + 1

    def item_counts(self) -> dict[Item, TalkerCount[Item]]:
        """Return what is counted."""
        errors = self._errors
        return {item: TalkerCount(item, count, errors.get(item, 0)) for item, count in self.highest.items()}

    def _evict(self) -> None:
        """Keep the greater half."""
        by_count = sorted(self.highest.items(), key=itemgetter(1), reverse=True)
        self.floor = by_count[self._capacity][1]
        for item, _ in by_count[self._capacity :]:
            del self.highest[item]
            self._errors.pop(item, None)


Talker = tuple[str, str]
"""A rule and a key."""


class Window:
    """The counts of a stretch of time."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.hits: SpaceSaving[Talker] = SpaceSaving()
        self.refused: SpaceSaving[Talker] = SpaceSaving()


class Talkers:
    """Counts hits and refusals by rule and key, over the last one to two minutes.

    `roll` must be called now and then; what happened is in one of two windows, of which the older is forgotten.
    """

    def __init__(self, now_s: float) -> None:
        self._before: Window | None = None
        self._begin(now_s)

    def note_decision(self, rule: str, key: str, *, allowed: bool) -> None:
        """Count a decision."""
        talker = (rule, key)
        if talker in self._highest:
            self._highest[talker] += 1
        else:
            self._window.hits.count_item(talker)
        if not allowed:
            self._window.refused.count_item(talker)

    def roll(self, now_s: float) -> None:
        """Begin another window, if this one is full."""
        age_s = now_s - self._window.began_s
        if age_s < WINDOW_S:
            return
        self._before = self._window if age_s < 2 * WINDOW_S else None
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self._window = Window(now_s)
        self._highest = self._window.hits.highest

    def report(self, by: By, now_s: float, rule: str = "", limit: int = PUBLISHED_MAX) -> "Report":
        """Return the keys that were hit or refused most, of one rule or ("") of all."""
        self.roll(now_s)
        windows = [window for window in (self._before, self._window) if window is not None]
        counters = [window.hits if by == "hits" else window.refused for window in windows]
        report = merge_reports([_report(counter, rule) for counter in counters], limit)
        return msgspec.structs.replace(report, over_ms=round((now_s - windows[0].began_s) * 1_000))


class Line(msgspec.Struct, frozen=True):
    """A rule's key: it was counted at most `count` times, and at least `count - error`."""

    rule: str
    key: str
    count: int
    error: int


class Report(msgspec.Struct, frozen=True):
    """The keys that were counted most, in that order. Any other key was counted `floor` times at most."""

    lines: list[Line]
    floor: int
    over_ms: int = 0


class TalkersReport(msgspec.Struct, frozen=True):
    """The keys that one node counts most, as it publishes them for the other nodes."""

    hits: Report
    refused: Report


def merge_reports(reports: Sequence[Report], limit: int) -> Report:
    """Return one report of several; what one of them leaves out counts as its floor, which is an error."""
    floors = sum(report.floor for report in reports)
    sums: dict[Talker, list[int]] = {}
    for report in reports:
        for line in report.lines:
            known = sums.setdefault((line.rule, line.key), [floors, floors])
            known[0] += line.count - report.floor
            known[1] += line.error - report.floor
    lines = [Line(*talker, count, error) for talker, (count, error) in sums.items()]
    lines.sort(key=lambda line: (line.error - line.count, line.rule, line.key))
    over_ms = max((report.over_ms for report in reports), default=0)
    return cut(Report(lines, floors, over_ms), limit)


def cut(report: Report, limit: int) -> Report:
    """Return a report with so many lines at most; those that go raise its floor."""
    floor = max([report.floor, *(line.count for line in report.lines[limit:])])
    return msgspec.structs.replace(report, lines=report.lines[:limit], floor=floor)


def of_rule(report: Report, rule: str) -> Report:
    """Return what a report says of one rule."""
    return msgspec.structs.replace(report, lines=[line for line in report.lines if line.rule == rule])


def _report(counter: SpaceSaving[Talker], rule: str) -> Report:
    counts: Iterable[TalkerCount[Talker]] = counter.item_counts().values()
    lines = [
        Line(*count.item, count.most, count.error) for count in counts if not rule or count.item[0] == rule
    ]
    return Report(lines, counter.floor)
