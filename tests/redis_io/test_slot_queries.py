"""Calls of a Cluster go where their slots are, and TIME where everything else is."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import MovedError, TryAgainError

from presence_server.errors import StoreAwayError
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.queries import ServerQueries, SlotQueries
from presence_server.redis_io.scripts import Call, slot_of

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


class Server:
    """The queries of one server, which answer when the test says so."""

    def __init__(self) -> None:
        self.isolated = False
        batcher = PipelineBatcher(RedisClient("unix:///nowhere").lane(), 1.0, lambda: None)
        self.refusals = 0
        self.queries = ServerQueries(batcher, lambda: self.isolated, self.note_refusal)

    def note_refusal(self) -> None:
        self.refusals += 1

    def answer(self, error: Exception | None = None) -> list[str]:
        """Answer each call with its key; return the keys."""
        work = self.queries.take()
        for piece in work:
            piece.done(error or piece.call.command[-1])
        return [str(piece.call.command[-1]) for piece in work]


class Pair:
    """Two servers: even slots, and calls that any carries out, are at the first, odd ones at the other."""

    def __init__(self) -> None:
        self.servers = (Server(), Server())
        every = [server.queries for server in self.servers]
        self.moved = False
        self.looks = 0
        self.queries = SlotQueries(self.queries_of, lambda: every, self.look)
        keys = [f"key-{n}" for n in range(20)]
        self.even = [key for key in keys if slot_of(key) % 2 == 0][:2]
        self.odd = [key for key in keys if slot_of(key) % 2 == 1][:2]

    def queries_of(self, slot: int | None) -> ServerQueries:
        return self.servers[((slot or 0) + self.moved) % 2].queries

    async def look(self) -> None:
        """Find that all slots have moved to the other server."""
        self.looks += 1
        self.moved = True

    def get(self, *keys: str) -> list[Call]:
        return [Call(("GET", key)) for key in keys]


async def test_answers_come_in_the_order_of_the_calls_and_the_last_call_runs_after_the_rest() -> None:
    pair = Pair()
    first, second = pair.servers
    asked: list[Any] = []
    order: list[list[str]] = []

    async def ask() -> None:
        keys = (pair.odd[0], pair.even[0], pair.odd[1], pair.even[1])
        asked.extend(await pair.queries.ask(*pair.get(*keys)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await settle()
        assert first.answer() == []
        order.append(second.answer())
        await settle()
        order.append(first.answer())
    assert order == [pair.odd, pair.even]
    assert asked == [pair.odd[0], pair.even[0], pair.odd[1], pair.even[1]]


async def test_a_call_to_a_server_that_is_away_says_so_and_others_do_not() -> None:
    pair = Pair()
    pair.servers[1].isolated = True
    with pytest.raises(StoreAwayError):
        await pair.queries.ask(*pair.get(pair.odd[0]))
    told: list[str] = []
    pair.queries.tell(pair.get(pair.odd[0])[0], lambda: told.append("lost"))
    pair.queries.tell(
        pair.get(pair.even[0])[0], lambda: told.append("lost too"), lambda _: told.append("done")
    )
    pair.servers[0].answer()
    assert told == ["lost", "done"]
    assert await pair.queries.ask() == []


@pytest.mark.parametrize("fails", [False, True])
async def test_time_is_done_when_every_server_has_told_it(*, fails: bool) -> None:
    pair = Pair()
    told: list[str] = []
    pair.queries.tell(Call(("TIME",)), lambda: told.append("lost"), lambda _: told.append("done"))
    pair.servers[0].answer(ConnectionError("reset") if fails else None)
    assert told == []
    pair.servers[1].answer()
    assert told == ["lost" if fails else "done"]


async def test_calls_whose_slot_has_moved_are_asked_again_at_the_server_that_has_it() -> None:
    pair = Pair()
    first, second = pair.servers
    asked: list[Any] = []

    async def ask() -> None:
        asked.extend(await pair.queries.ask(*pair.get(*pair.even)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await settle()
        assert first.answer(MovedError("1 127.0.0.1:1")) == pair.even
        assert (first.refusals, second.refusals) == (2, 0)
        await settle()
        assert pair.looks == 1
        assert first.answer() == []
        assert second.answer() == pair.even
    assert asked == pair.even


async def test_a_slot_that_is_moving_still_is_an_outage_of_its_own() -> None:
    pair = Pair()
    first, _ = pair.servers

    async def ask() -> None:
        with pytest.raises(StoreAwayError):
            await pair.queries.ask(*pair.get(*pair.even))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await settle()
        first.answer(TryAgainError("Multiple keys request during rehashing of slot"))
    assert (pair.looks, first.refusals) == (0, 2)
