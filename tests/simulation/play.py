"""Plays a plan in a world of its own, and says what it broke."""

import logging
import random
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from presence_server import faults
from presence_server.cluster import reentry, slices
from presence_server.config.settings import LimitsSettings, RoomSettings
from tests.simulation.plan import PRESENCE, Plan
from tests.simulation.stage import Stage
from tests.simulation.world import World

TRACEBACKS_MAX: Final = 3
SLICED: Final = range(20_000_000_000, 100_000_000_000)
"""Seeds whose nodes come back in slices of their own size: plans have so few rooms that one slice would be all."""
SLICES: Final = ((1, 2), (3, 5), (slices.STEPS_MAX, reentry.UNANSWERED_MAX))
"""Steps in a slice, and operations that the store has not answered."""


@dataclass
class Outcome:
    """What a run came to."""

    plan: Plan
    broken: list[tuple[str, str]]
    """The invariant, and what was seen."""
    trace: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Return the invariants that broke, each once."""
        return list(dict.fromkeys(name for name, _ in self.broken))


def play(plan: Plan, *, until_empty: bool = True, rooms: Sequence[RoomSettings] = ()) -> Outcome:
    """Play a plan to its end; what it breaks is in the outcome, exceptions of the product included.

    `rooms` are the rules of rooms.
    `until_empty`: also until nothing may be remembered of anybody, which is most of the time.
    """
    contained = _Contained()
    limits = None
    if plan.patience is not None:
        patience = plan.patience
        limits = LimitsSettings(
            outbox_soft_bytes=patience.soft_bytes,
            outbox_hard_bytes=patience.hard_bytes,
            outbox_hard_ms=patience.hard_ms,
        )
    world = World(plan.seed, nodes=plan.nodes, presence=PRESENCE, limits=limits, rooms=rooms)
    with _sliced(plan.seed), _without_logs(), world, contained.watched():
        stage = Stage(world, plan)
        try:
            stage.play(until_empty=until_empty)
        except Exception as failure:  # noqa: BLE001 - whatever it was, it is a finding of this seed
            stage.chronicle.breaks("no_exception", world.now_ms, _told(failure))
        for node in world.alive:
            if node._running.done():
                stage.chronicle.broken.append(
                    ("no_exception", f"{node.name}: {_told(node._running.exception())}")
                )
        stage.chronicle.broken += [("no_exception", fault) for fault in contained.faults()]
        for where, exc in world.faults:
            stage.chronicle.broken.append(("no_exception", f"{where}: {_told(exc)}"))
        return Outcome(plan, stage.chronicle.broken, stage.trace())


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keep the nodes' logs out of the output: thousands of lines a run that nobody reads, and a sixth of its time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _sliced(seed: int) -> Iterator[None]:
    """Have nodes come back in the slices of a seed."""
    before = slices.STEPS_MAX, reentry.UNANSWERED_MAX
    if seed in SLICED:
        _set_slices(*random.Random(f"slices {seed}").choice(SLICES))  # noqa: S311 - a run must be the same every time
    try:
        yield
    finally:
        _set_slices(*before)


def _set_slices(steps: int, unanswered: int) -> None:
    slices.STEPS_MAX = reentry.STEPS_MAX = steps  # type: ignore[misc,attr-defined]  # for a while
    reentry.UNANSWERED_MAX = unanswered  # type: ignore[misc]  # as above


class _Contained(logging.Handler):
    """Faults that a boundary of the product has contained: it goes on, and yet something is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._before = Counter(faults.counts)
        self._tracebacks: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep what is logged, and let nobody else see it."""
        log, propagated = logging.getLogger(faults.__name__), logging.getLogger(faults.__name__).propagate
        log.addHandler(self)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(self)
            log.propagate = propagated

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first few tracebacks."""
        if record.exc_info is not None and len(self._tracebacks) < TRACEBACKS_MAX:
            self._tracebacks.append(_told(record.exc_info[1]))

    def faults(self) -> list[str]:
        """Return how many there were at each boundary, and what is known of them."""
        new = Counter(faults.counts) - self._before
        return [f"contained at {name}: {times} times; {self._tracebacks}" for name, times in new.items()]


def _told(exc: BaseException | None) -> str:
    """Return an exception with where it came from."""
    return "".join(traceback.format_exception(exc)[-3:]) if exc is not None else "no exception"
