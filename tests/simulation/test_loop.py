"""The loop of a simulation: time moves by itself, and a frozen node's callbacks wait."""

import asyncio
import time
from collections.abc import Iterator
from contextvars import Context

import anyio
import pytest

from tests.simulation.loop import NODE, TURNS_MAX, DeadlockError, SpinError, ThawOrder, VirtualLoop

DAY_S = 86_400


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def context_of(node: str) -> Context:
    context = Context()
    context.run(NODE.set, node)
    return context


def test_a_day_passes_in_no_time(loop: VirtualLoop) -> None:
    begun_s = time.monotonic()
    woken: list[int] = []

    async def sleep(days: int) -> None:
        await anyio.sleep(days * DAY_S)
        woken.append(days)

    async def sleepers() -> None:
        async with anyio.create_task_group() as tasks:
            for days in (3, 1, 2):
                tasks.start_soon(sleep, days)

    loop.run_until_complete(sleepers())
    loop.finish()
    assert woken == [1, 2, 3]
    assert loop.now_ms == 3 * DAY_S * 1_000
    assert time.monotonic() - begun_s < DAY_S


def test_time_stands_still_while_there_is_something_to_do(loop: VirtualLoop) -> None:
    times: list[int] = []

    def work(left: int) -> None:
        times.append(loop.now_ms)
        if left:
            loop.call_soon(work, left - 1)

    loop.call_soon(work, 100)
    loop.run_for(10)
    assert times == [0] * 101
    assert loop.now_ms == 10


def test_a_frozen_nodes_callbacks_wait_and_others_go_on(loop: VirtualLoop) -> None:
    heard: list[tuple[str, int]] = []
    for node in ("frozen", "other"):
        for ms in (10, 20, 30):
            context = context_of(node)
            loop.call_later(ms / 1_000, lambda: heard.append((NODE.get(), loop.now_ms)), context=context)
    loop.run_for(15)
    loop.freeze("frozen")
    loop.run_for(85)
    assert heard == [("frozen", 10), ("other", 10), ("other", 20), ("other", 30)]
    loop.thaw("frozen")
    loop.run_for(1)
    assert heard[4:] == [("frozen", 100), ("frozen", 100)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("as it came", ["timer", "delivery", "timer"]),
        ("timers first", ["timer", "timer", "delivery"]),
        ("deliveries first", ["delivery", "timer", "timer"]),
    ],
)
def test_a_thawed_node_reads_before_or_after_its_timers(
    loop: VirtualLoop, order: ThawOrder, expected: list[str]
) -> None:
    heard: list[str] = []
    context = context_of("node")
    loop.freeze("node")
    loop.call_later(0.01, heard.append, "timer", context=context)
    loop.deliver(loop.time() + 0.02, lambda: heard.append("delivery"), context)
    loop.call_later(0.03, heard.append, "timer", context=context)
    loop.run_for(100)
    loop.thaw("node", order)
    loop.run_for(1)
    assert heard == expected


def test_a_frozen_task_stops_where_it_is(loop: VirtualLoop) -> None:
    steps: list[int] = []

    async def count() -> None:
        while True:
            steps.append(loop.now_ms)
            await anyio.sleep(0.01)

    task = loop.create_task(count(), context=context_of("node"))
    loop.run_for(25)
    loop.freeze("node")
    loop.run_for(1_000)
    assert steps == [0, 10, 20]
    loop.thaw("node")
    loop.run_for(5)
    assert steps == [0, 10, 20, 1_025]
    assert not task.done()
    loop.finish()
    assert task.cancelled()


def test_tasks_of_a_killed_node_end_with_the_world(loop: VirtualLoop) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep(DAY_S)
        finally:
            ended.append(NODE.get())

    loop.create_task(work(), context=context_of("killed"))
    loop.run_for(1)
    loop.freeze("killed")
    loop.run_for(2 * DAY_S * 1_000)
    assert ended == []
    loop.finish()
    assert ended == ["killed"]


def test_cancelled_timers_do_not_move_time(loop: VirtualLoop) -> None:
    for _ in range(2_000):
        loop.call_later(5, lambda: None).cancel()
    loop.call_later(10, loop.stop)
    loop.run_forever()
    assert loop.now_ms == 10_000
    assert not loop._timers


def test_nothing_to_wait_for_is_a_deadlock(loop: VirtualLoop) -> None:
    with pytest.raises(DeadlockError):
        loop.run_forever()


def test_callbacks_without_end_are_noticed(loop: VirtualLoop) -> None:
    turns = 0

    def spin() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(spin)

    loop.call_soon(spin)
    with pytest.raises(SpinError):
        loop.run_for(1)
    assert turns == TURNS_MAX


def test_what_nobody_catches_in_a_node_is_kept_with_its_name(loop: VirtualLoop) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    loop.deliver(loop.time() + 0.001, fail, context_of("node"))
    loop.call_later(0.002, fail, context=context_of("other"))
    loop.run_for(10)
    assert [(node.partition(":")[0], str(fault)) for node, fault in loop.faults] == [
        ("node", "a defect"),
        ("other", "a defect"),
    ]


def test_what_a_player_gets_wrong_is_raised(loop: VirtualLoop) -> None:
    def fail() -> None:
        raise AssertionError("an invariant")

    loop.deliver(loop.time() + 0.001, fail, Context())
    with pytest.raises(AssertionError, match="an invariant"):
        loop.run_for(10)


def test_no_socket_can_be_opened(loop: VirtualLoop) -> None:
    async def connect() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    with pytest.raises(NotImplementedError):
        loop.run_until_complete(connect())
