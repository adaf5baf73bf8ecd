"""Who works in which turn of the loop."""

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter

import anyio.lowlevel
import pytest

from presence_server.edge.turns import SLICE_S, TURN_S, Queue, Turns
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


def busy(seconds: float) -> None:
    """Take the time of the processor."""
    until_s = perf_counter() + seconds
    while perf_counter() < until_s:
        pass


async def test_work_begins_at_once_until_the_turns_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1.0  # moved by hand: a busy machine may take the processor away for longer than a turn lasts
    monkeypatch.setattr("presence_server.edge.turns.perf_counter", lambda: now_s)
    turns = Turns(asyncio.get_running_loop())
    assert turns.may_begin(Queue.FRESH)
    over = turns.slice_over
    assert not over
    now_s += SLICE_S
    over = turns.slice_over
    assert over
    assert turns.may_begin(Queue.NEWCOMERS)
    now_s += TURN_S
    assert not turns.may_begin(Queue.FRESH)
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    assert turns.may_begin(Queue.FRESH)


async def test_who_comes_while_others_wait_waits_behind_them() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[int] = []
    for number in range(3):
        turns.queue_work(Queue.FRESH, "", partial(done.append, number))
    assert not turns.may_begin(Queue.FRESH)
    assert not turns.may_begin(Queue.NEWCOMERS)
    await until(lambda: len(done) == 3)
    assert done == [0, 1, 2]
    assert len(turns) == 0


async def test_a_turn_ends_and_the_loop_goes_on_before_the_rest_is_done() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[str] = []

    def work() -> None:
        busy(TURN_S / 2)
        done.append("work")

    for _ in range(8):
        turns.queue_work(Queue.FRESH, "", work)
    while "work" not in done:
        await anyio.lowlevel.checkpoint()
    asyncio.get_running_loop().call_later(0, done.append, "timer")
    await until(lambda: len(done) == 9)
    assert done.index("timer") < 8


async def test_one_that_is_never_done_keeps_nobody_waiting() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[str] = []

    def again(queue: Queue) -> Callable[[], None]:
        def work() -> None:
            busy(SLICE_S)
            if "newcomer" not in done or "fresh" not in done:
                turns.queue_work(queue, "", work)

        return work

    for _ in range(20):
        turns.queue_work(Queue.BUSY, "", again(Queue.BUSY))
        turns.queue_work(Queue.FRESH, "", again(Queue.FRESH))
    turns.queue_work(Queue.NEWCOMERS, "", lambda: done.append("newcomer"))
    turns.queue_work(Queue.FRESH, "", lambda: done.append("fresh"))
    await until(lambda: len(done) == 2)
    await until(lambda: len(turns) == 0)


async def test_newcomers_of_one_address_do_not_keep_those_of_another_waiting() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[str] = []
    for address in ("a", "a", "a", "b"):
        turns.queue_work(Queue.NEWCOMERS, address, partial(done.append, address))
    await until(lambda: len(done) == 4)
    assert done == ["a", "b", "a", "a"]
