"""Who is hit and refused most: the bound on each count, the windows, reports of several nodes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.throttle import Decision, Rule
from presence_server.throttle.talkers import (
    CAPACITY,
    WINDOW_S,
    Line,
    Report,
    SpaceSaving,
    Talkers,
    merge_reports,
)
from presence_server.throttle.watched import WatchedLimiter

pytestmark = pytest.mark.anyio

STREAMS = st.lists(st.integers(0, 60), max_size=400)


@given(STREAMS, st.integers(1, 8))
def test_no_count_is_too_low_nor_too_high_by_more_than_it_says(stream: list[int], capacity: int) -> None:
    counter: SpaceSaving[int] = SpaceSaving(capacity)
    for item in stream:
        counter.count_item(item)
        assert len(counter) <= 2 * capacity
    exact = Counter(stream)
    counted = counter.item_counts()
    for item, count in counted.items():
        assert count.most - count.error <= exact[item] <= count.most
        assert count.error <= len(stream) / capacity
    for item, times in exact.items():
        if item not in counted:
            assert times <= counter.floor <= len(stream) / capacity


@given(st.lists(STREAMS, min_size=1, max_size=4), st.integers(1, 8), st.integers(1, 10))
def test_a_report_of_several_is_within_the_error_that_it_says(
    streams: list[list[int]], capacity: int, limit: int
) -> None:
    reports = []
    for stream in streams:
        counter: SpaceSaving[int] = SpaceSaving(capacity)
        for item in stream:
            counter.count_item(item)
        lines = [
            Line("r", str(count.item), count.most, count.error) for count in counter.item_counts().values()
        ]
        reports.append(merge_reports([Report(lines, counter.floor)], limit))
    report = merge_reports(reports, limit)
    exact = Counter(str(item) for stream in streams for item in stream)
    assert len(report.lines) <= limit
    for line in report.lines:
        assert line.count - line.error <= exact[line.key] <= line.count
    listed = {line.key for line in report.lines}
    assert all(times <= report.floor for key, times in exact.items() if key not in listed)


def test_what_is_hit_is_forgotten_after_two_windows_at_most() -> None:
    talkers = Talkers(0.0)
    for _ in range(3):
        talkers.note_decision("login", "ada", allowed=True)
    talkers.note_decision("login", "eve", allowed=False)
    talkers.note_decision("api", "eve", allowed=False)
    assert talkers.report("hits", 1.0).lines[0] == Line("login", "ada", 3, 0)
    assert talkers.report("refused", 1.0, "login").lines == [Line("login", "eve", 1, 0)]
    talkers.roll(WINDOW_S)
    talkers.note_decision("login", "ada", allowed=True)
    report = talkers.report("hits", WINDOW_S + 10, limit=1)
    assert (report.lines, report.floor, report.over_ms) == ([Line("login", "ada", 4, 0)], 1, 70_000)
    report = talkers.report("hits", 2 * WINDOW_S)
    assert (report.lines, report.over_ms) == ([Line("login", "ada", 1, 0)], 60_000)
    assert talkers.report("hits", 9 * WINDOW_S).lines == []


def test_a_flood_of_keys_hides_no_attacker_and_costs_bounded_memory() -> None:
    talkers = Talkers(0.0)
    for n in range(20 * CAPACITY):
        talkers.note_decision("connect", f"10.0.{n >> 8}.{n & 255}", allowed=True)
        if n % 50 == 0:
            talkers.note_decision("connect", "203.0.113.7", allowed=False)
    (line, *_) = talkers.report("hits", 1.0).lines
    assert line.key == "203.0.113.7"
    assert line.count - line.error <= 400 <= line.count
    assert len(talkers._window.hits) <= 2 * CAPACITY


async def test_a_limiter_forgets_what_is_hit_by_the_clock_that_it_is_given() -> None:
    time_s = 0.0
    limiter = WatchedLimiter([Rule("login", "9/600s")], now_s=lambda: time_s)
    await limiter.hit("login", "ada")
    for time_s, hits in ((WINDOW_S, ["ada"]), (2 * WINDOW_S, [])):
        limiter.roll()
        assert [line.key for line in limiter.talkers.report("hits", time_s).lines] == hits


async def test_every_way_to_hit_is_counted_under_each_rule() -> None:
    limiter = WatchedLimiter([Rule("login", "1/600s"), Rule("api", "100/600s")], log_max=10)
    told: list[Decision] = []
    await limiter.hit("login", "ada")
    limiter.decide("login", "ada", 1, told.append)
    await limiter.hit(["login", "api"], "ada", 1)
    await limiter.hit(Rule("own", "1/1s"), "ada")
    await limiter.peek("login", "ada")
    assert not told[0].allowed
    hits = {line.rule: line.count for line in limiter.talkers.report("hits", 0.0).lines}
    refused = {line.rule: line.count for line in limiter.talkers.report("refused", 0.0).lines}
    assert hits == {"login": 3, "api": 1, "own": 1}
    assert refused == {"login": 2}
    assert limiter.log is not None
    assert [(each.rule, each.allowed) for each in limiter.log.copy()] == [
        ("login", True),
        ("login", False),
        ("login", False),
        ("api", True),
        ("own", True),
    ]
    for _ in range(20):
        await limiter.hit("api", "bob")
    assert len(limiter.log) == 10
