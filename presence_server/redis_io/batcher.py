"""One pipeline of a tick's work: alone a command costs tens of microseconds, in a pipeline a few."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import anyio

from presence_server.counters import Histogram
from presence_server.faults import contain
from presence_server.redis_io.client import AWAY
from presence_server.redis_io.port import Lane
from presence_server.redis_io.scripts import Call

WEIGHT_MAX: Final = 2_000
"""Operations in one pipeline: tens of milliseconds of the server's time. More could outlast the deadline."""
LOOKS_MAX: Final = 5
"""The number of checks of a pipeline before it is given up."""
Answer = Any


class Work(NamedTuple):
    """A call, the callback that gets its answer or the error in its place, and how many operations it counts as."""

    call: Call
    done: Callable[[Answer], None]
    weight: int = 1


class WorkSource(Protocol):
    """Something that gathers work between two pipelines."""

    def take(self) -> list[Work]:
        """Return what has been gathered, in the order in which it must run."""


class PipelineBatcher:
    """Runs its sources' work, one pipeline in flight: two could overtake each other.

    Sources add themselves when they are made, and are asked in that order: what the first gathered runs before what the
    second did. `before_pipeline()` is called before they are asked: what has to be noticed before calls are built, such
    as a gap of the clock.
    A pipeline of which no further answer has come for `deadline_s` fails.
    """

    def __init__(self, lane: Lane, deadline_s: float, before_pipeline: Callable[[], None]) -> None:
        self._sources: list[WorkSource] = []
        self._lane = lane
        self._before_pipeline = before_pipeline
        self._look_s = deadline_s / LOOKS_MAX
        self._looks: int | None = None
        self._wanted = anyio.Event()
        self.seconds = Histogram()
        """The durations of pipelines, s."""
        self.failures = 0

    def add_source(self, source: WorkSource) -> None:
        """Ask `source` for work before each pipeline, after those that were added before it."""
        self._sources.append(source)

    def wake(self) -> None:
        """Have the sources asked, once the present turn of the loop is over."""
        self._wanted.set()

    async def run(self) -> None:
        """Run pipelines for ever."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                await self._work()
        finally:
            with anyio.CancelScope(shield=True):
                await self._lane.aclose()

    async def _watch(self) -> None:
        """End a pipeline of which nothing more comes; cheaper than a timer for each of them.

        Looks are counted: a process that was frozen must read what has come before it judges.
        """
        answered = self._lane.answered
        while True:
            await anyio.sleep(self._look_s)
            if self._looks is not None:
                self._looks = self._looks + 1 if self._lane.answered == answered else 0
                if self._looks > LOOKS_MAX:
                    await self._lane.aclose()
            answered = self._lane.answered

    async def _work(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            contain("pipeline", self._before_pipeline)
            gathered: list[Work] = []
            for source in self._sources:
                contain("pipeline", _gather, source, gathered)
            batch: list[Work] = []
            weight = 0
            for piece in gathered:
                if batch and weight + piece.weight > WEIGHT_MAX:
                    await self._run(batch)
                    batch, weight = [], 0
                batch.append(piece)
                weight += piece.weight
            if batch:
                await self._run(batch)

    async def _run(self, work: Sequence[Work]) -> None:
        self._looks = 0
        began_s = perf_counter()
        try:
            answers = await self._lane.pipeline([piece.call for piece in work])
        except AWAY as exc:
            self.failures += 1
            answers = [exc] * len(work)
        self._looks = None
        self.seconds.observe(perf_counter() - began_s)
        for piece, answer in zip(work, answers, strict=True):
            contain("pipeline", piece.done, answer)


def _gather(source: WorkSource, gathered: list[Work]) -> None:
    gathered += source.take()
