"""Calls whose answers somebody awaits: gathered with all others of their tick, in one pipeline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from redis.exceptions import MovedError

from presence_server.errors import StoreAwayError
from presence_server.redis_io.batcher import PipelineBatcher, Work
from presence_server.redis_io.client import is_away
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.store_errors import log_refused_call
from presence_server.redis_io.subscriber import SLOT_REFUSALS

QUERIES_MAX = 100_000
"""Calls that may wait; more are refused, as if the store were away."""


class Queries(Protocol):
    """Calls to the store by the registry, the sessions and the room index."""

    async def ask(self, *calls: Call) -> list[Any]:
        """Return each call's answer, in order.

        Raises `StoreAwayError` where the store is out of reach: then it is not known which calls ran. Raises
        `redis.exceptions.ResponseError` for a call that it refuses to run.
        """

    def tell(
        self,
        call: Call,
        lost: Callable[[], None] = lambda: None,
        done: Callable[[Any], None] = lambda _answer: None,
    ) -> None:
        """Run a call that nobody waits for; `done` gets its answer when it has run, `lost` is called where it may not.

        Calls run, and `done` and `lost` are called, in the order in which the calls were made.
        """


class ServerQueries:
    """Queries of one server: a batcher's source. While `is_isolated()` nothing is asked.

    `slot_refused()` is called when a server of a Cluster refuses a call because of its slot.
    """

    def __init__(
        self, batcher: PipelineBatcher, is_isolated: Callable[[], bool], slot_refused: Callable[[], None]
    ) -> None:
        self._batcher = batcher
        self._is_isolated = is_isolated
        self._slot_refused = slot_refused
        self._gathered: list[Work] = []
        batcher.add_source(self)

    async def ask(self, *calls: Call) -> list[Any]:
        """Return each call's answer; see `Queries`."""
        return _checked(await self.answers(*calls))

    async def answers(self, *calls: Call) -> list[Any]:
        """Do as `ask`, but return errors as answers; raise `StoreAwayError` where nothing could be asked."""
        if not calls:
            return []
        if self._is_isolated() or len(self._gathered) + len(calls) > QUERIES_MAX:
            raise StoreAwayError
        answers: list[Any] = []
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(answer: Any) -> None:
            self._note_slot_refusal(answer)
            answers.append(answer)
            if len(answers) == len(calls) and not complete.done():
                complete.set_result(None)

        self._gathered += [Work(call, answered) for call in calls]
        self._batcher.wake()
        await complete
        return answers

    def tell(
        self,
        call: Call,
        lost: Callable[[], None] = lambda: None,
        done: Callable[[Any], None] = lambda _answer: None,
    ) -> None:
        """Run a call that nobody waits for; see `Queries`."""
        if self._is_isolated() or len(self._gathered) >= QUERIES_MAX:
            lost()
        else:
            self._gathered.append(Work(call, partial(self._note_answer, call, lost, done)))
            self._batcher.wake()

    def take(self) -> list[Work]:
        """Return what has been gathered."""
        gathered, self._gathered = self._gathered, []
        return gathered

    def _note_answer(
        self, call: Call, lost: Callable[[], None], done: Callable[[Any], None], answer: Any
    ) -> None:
        self._note_slot_refusal(answer)
        if not isinstance(answer, Exception):
            done(answer)
        elif is_away(answer):
            lost()
        else:
            log_refused_call(call, answer)

    def _note_slot_refusal(self, answer: Any) -> None:
        if isinstance(answer, SLOT_REFUSALS):
            self._slot_refused()


class SlotQueries:
    """Queries of a Cluster: each call goes to those of the server that has its slot.

    `of_slot(slot)` returns the queries of the server that has a slot, of any server for None, and `all_queries()` those
    of every server; `look()` reads where the slots are. Calls to several servers run at the same time, but the last
    call, with all others to its server, runs after the rest. Several calls are reads: where the slot of one has moved
    to another server, all of them are asked again, once.
    """

    def __init__(
        self,
        of_slot: Callable[[int | None], ServerQueries],
        all_queries: Callable[[], Sequence[ServerQueries]],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._of_slot = of_slot
        self._all = all_queries
        self._look = look

    async def ask(self, *calls: Call) -> list[Any]:
        """Return each call's answer, in order; see `Queries`."""
        answers = await self._ask_once(calls)
        if any(isinstance(answer, MovedError) for answer in answers):
            await self._look()
            answers = await self._ask_once(calls)
        return _checked(answers)

    async def _ask_once(self, calls: Sequence[Call]) -> list[Any]:
        numbers: dict[ServerQueries, list[int]] = {}
        for number, call in enumerate(calls):
            numbers.setdefault(self._of_slot(call.slot), []).append(number)
        answers: list[Any] = [None] * len(calls)

        async def ask(queries: ServerQueries) -> None:
            found = await queries.answers(*(calls[number] for number in numbers[queries]))
            for number, answer in zip(numbers[queries], found, strict=True):
                answers[number] = answer

        if calls:
            last = self._of_slot(calls[-1].slot)
            await asyncio.gather(*(ask(queries) for queries in numbers if queries is not last))
            await ask(last)
        return answers

    def tell(
        self,
        call: Call,
        lost: Callable[[], None] = lambda: None,
        done: Callable[[Any], None] = lambda _answer: None,
    ) -> None:
        """Run a call that nobody waits for; TIME runs on every server, after all calls before it."""
        if call.command[0] != "TIME":
            self._of_slot(call.slot).tell(call, lost, done)
            return
        every = self._all()
        outstanding = len(every)
        failed = False

        def answered_one(answer: Any = None) -> None:
            nonlocal outstanding, failed
            outstanding -= 1
            failed = failed or answer is None
            if outstanding:
                return
            if failed:
                lost()
            else:
                done(answer)

        for queries in every:
            queries.tell(call, answered_one, answered_one)


def _checked(answers: list[Any]) -> list[Any]:
    """Return answers none of which is an error; raise the first that is one."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise (StoreAwayError() if is_away(answer) else answer)
    return answers
