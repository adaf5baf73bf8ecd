"""The pipeline batcher: order, deadlines, and callbacks that fail."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from presence_server import faults
from presence_server.redis_io.batcher import WEIGHT_MAX, PipelineBatcher, Work
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.queries import ServerQueries
from presence_server.redis_io.scripts import Call
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BLOCKED_S = 0.4


@asynccontextmanager
async def running(batcher: PipelineBatcher) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.run)
        batcher.wake()
        yield
        tasks.cancel_scope.cancel()


class Source:
    """Hands its calls out once."""

    def __init__(self, calls: list[Call], weight: int = 1, done: Callable[[Any], None] | None = None) -> None:
        self.answers: list[Any] = []
        self._calls = calls
        self._weight = weight
        self._done = done or self.answers.append

    def take(self) -> list[Work]:
        calls, self._calls = self._calls, []
        return [Work(call, self._done, self._weight) for call in calls]


def appends(numbers: range) -> list[Call]:
    return [Call(("RPUSH", "list", n)) for n in numbers]


@pytest.mark.parametrize("weight", [1, WEIGHT_MAX])
async def test_what_is_gathered_runs_in_order_whatever_it_weighs(
    client: RedisClient, server: RedisServer, weight: int
) -> None:
    batcher = PipelineBatcher(client.lane(), 5, lambda: None)
    first, second = Source(appends(range(20)), weight), Source(appends(range(20, 40)), weight)
    batcher.add_source(first)
    batcher.add_source(second)
    async with running(batcher):
        await until(lambda: len(second.answers) == 20)
    assert [int(n) for n in server.ask("LRANGE", "list", 0, -1)] == list(range(40))


async def test_an_answer_that_cannot_be_handled_keeps_no_other_from_arriving(client: RedisClient) -> None:
    def refuse(answer: Any) -> None:
        raise KeyError(answer)

    before = faults.counts["pipeline"]
    batcher = PipelineBatcher(client.lane(), 5, lambda: None)
    wrong, right = Source(appends(range(2)), done=refuse), Source(appends(range(2)))
    batcher.add_source(wrong)
    batcher.add_source(right)
    async with running(batcher):
        await until(lambda: right.answers == [3, 4])
        assert faults.counts["pipeline"] == before + 2
        queries = ServerQueries(batcher, lambda: False, slot_refused=lambda: None)
        assert await queries.ask(Call(("LLEN", "list"))) == [4]


async def test_a_source_that_fails_keeps_no_other_from_being_asked(client: RedisClient) -> None:
    class Broken:
        def take(self) -> list[Work]:
            raise KeyError

    def fail() -> None:
        raise KeyError

    before = faults.counts["pipeline"]
    batcher = PipelineBatcher(client.lane(), 5, fail)
    right = Source(appends(range(1)))
    batcher.add_source(Broken())
    batcher.add_source(right)
    async with running(batcher):
        await until(lambda: right.answers == [1])
    assert faults.counts["pipeline"] >= before + 2


async def test_what_must_be_noticed_first_is_called_before_sources_are_asked(client: RedisClient) -> None:
    happened: list[str] = []

    class Noting(Source):
        def take(self) -> list[Work]:
            happened.append("take")
            return super().take()

    batcher = PipelineBatcher(client.lane(), 5, lambda: happened.append("before"))
    source = Noting(appends(range(1)))
    batcher.add_source(source)
    async with running(batcher):
        await until(lambda: source.answers)
    assert happened == ["before", "take"]


async def test_a_pipeline_of_many_slow_answers_is_not_given_up(client: RedisClient) -> None:
    batcher = PipelineBatcher(client.lane(), 5 * BLOCKED_S, lambda: None)
    slow = Source([Call(("BLPOP", "nothing", str(BLOCKED_S)))] * 10)
    batcher.add_source(slow)
    async with running(batcher):
        await until(lambda: slow.answers)
    assert slow.answers == [None] * 10
    assert batcher.failures == 0


async def test_a_pipeline_whose_answers_stop_fails(client: RedisClient) -> None:
    batcher = PipelineBatcher(client.lane(), BLOCKED_S, lambda: None)
    stuck = Source([Call(("PING",)), Call(("BLPOP", "nothing", "0")), Call(("PING",))])
    batcher.add_source(stuck)
    async with running(batcher):
        await until(lambda: stuck.answers)
        assert batcher.failures == 1
        assert all(isinstance(answer, Exception) for answer in stuck.answers)
        again = Source(appends(range(1)))
        batcher.add_source(again)
        batcher.wake()
        await until(lambda: again.answers == [1])
