"""Deadlines by key: whatever is scheduled, put off, brought forward and cancelled, in the order of a plain table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.timers import SPARE, Timers
from tests.support.properties import examples

KEYS = st.integers(0, 5)
TIMES = st.integers(0, 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("schedule"), KEYS, TIMES),
        st.tuples(st.just("cancel"), KEYS, st.just(0)),
        st.tuples(st.just("pop"), st.integers(0, 4), TIMES),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@examples(300)
@given(steps=STEPS)
def test_timers_do_what_a_table_does_that_is_sorted_each_time(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers(order=lambda key: -key)
    table: dict[int, int] = {}
    for step, key, time in steps:
        if step == "schedule":
            timers.schedule(key, time)
            table[key] = time
        elif step == "cancel":
            timers.cancel(key)
            table.pop(key, None)
        elif step == "pop":
            most = key or None
            due = sorted((at, -each) for each, at in table.items() if at <= time)[:most]
            assert timers.pop_due(time, most) == [-each for _, each in due]
            for _, each in due:
                del table[-each]
        else:
            assert timers.next_due() == min(table.values(), default=None)
        assert len(timers) == len(table)
        assert {each: timers[each] for each in range(6) if each in timers} == table


@examples(100)
@given(steps=STEPS)
def test_without_an_order_the_same_keys_are_due(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[object] = Timers()
    keys = [object() for _ in range(6)]
    table: dict[object, int] = {}
    for step, key, time in steps:
        if step == "schedule":
            timers.schedule(keys[key], time)
            table[keys[key]] = time
        elif step == "cancel":
            timers.cancel(keys[key])
            table.pop(keys[key], None)
        elif step == "pop":
            due = timers.pop_due(time)
            assert [table[each] for each in due] == sorted(at for at in table.values() if at <= time)
            assert {each for each, at in table.items() if at <= time} == set(due)
            for each in due:
                del table[each]


def test_a_key_without_a_deadline_is_due_never() -> None:
    timers: Timers[str] = Timers()
    assert timers.next_due() is None
    assert timers.pop_due(10**18) == []
    timers.cancel("k")
    with pytest.raises(KeyError):
        timers["k"]


def test_entries_that_are_out_of_date_are_bounded_by_the_keys() -> None:
    timers: Timers[int] = Timers()
    for n in range(10_000):
        timers.schedule(n % 10, 20_000 - n)
        timers.schedule(10 + n, n)
        timers.cancel(10 + n)
        assert len(timers._heap) <= 2 * len(timers) + SPARE + 1
    assert timers.pop_due(10**9) == [*range(9, -1, -1)]
    assert (len(timers), len(timers._heap), len(timers._moved)) == (0, 0, 0)


def test_what_is_put_off_again_and_again_is_moved_once() -> None:
    timers: Timers[str] = Timers()
    timers.schedule("k", 1)
    for at in range(2, 1_000):
        timers.schedule("k", at)
    assert len(timers._heap) == 1
    assert timers.pop_due(998) == []
    assert timers._heap[0][0] == 999
    assert timers.pop_due(999) == ["k"]
