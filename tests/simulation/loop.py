"""An asyncio event loop on virtual time: where it would wait, the clock moves, and nothing is ever read from a socket.

Each callback belongs to the node whose context it was scheduled in (`NODE`). A frozen node's callbacks and due timers
are put aside, in their order, until it is thawed; a killed node's are put aside for good.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, Final

NODE: Final = ContextVar("NODE", default="")
"""Whose callback is running: the name of a node or of the store; "": the world's own."""
BEGINNING_S: Final = 1_000.0
"""What `time()` says at first: no deadline is 0 by accident."""
TURNS_MAX: Final = 100_000
"""Turns of the loop without a move of the clock, after which something is taken to spin."""
PURGED_AT: Final = 500
"""Cancelled timers that are kept among those to come; beyond them they are cleared out."""


class DeadlockError(Exception):
    """Nothing is scheduled, so that nothing can ever happen again."""


class SpinError(Exception):
    """Callbacks schedule callbacks without end, and the clock never moves."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop that jumps to its next timer. `faults` are exceptions that no callback or task has caught."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[tuple[str, BaseException | None]] = []
        self._now_s = BEGINNING_S
        self._turns = 0
        self._aside: dict[str, list[asyncio.Handle]] = {}
        """What frozen and killed nodes would have done."""
        self.set_exception_handler(self._note_fault)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    @property
    def now_ms(self) -> int:
        """Virtual milliseconds since the loop was made."""
        return round((self._now_s - BEGINNING_S) * 1_000)

    def run_for(self, ms: float) -> None:
        """Do all that is due within `ms` of virtual time."""
        self.call_at(self._now_s + ms / 1_000, self.stop, context=Context())
        self.run_forever()

    def freeze(self, node: str) -> None:
        """Put aside what a node does from now on; freezing a frozen one changes nothing."""
        self._aside.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Let a node go on with what was put aside."""
        self._ready.extend(self._aside.pop(node, ()))

    def is_frozen(self, node: str) -> bool:
        """Tell whether a node's callbacks are put aside."""
        return node in self._aside

    def finish(self) -> None:
        """Thaw every node, cancel all tasks, and let them end."""
        for node in list(self._aside):
            self.thaw(node)
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(_ended(tasks))
        self.close()

    # --- what the base class calls ---

    def _run_once(self) -> None:
        """Take one turn: move the clock if there is nothing to do now, then run what is due."""
        ready, scheduled = self._ready, self._scheduled
        if self._timer_cancelled_count > PURGED_AT:
            self._purge()
        if not ready:
            self._move_clock()
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise SpinError([repr(handle) for handle in list(ready)[:5]])
        now_s = self._now_s
        while scheduled and scheduled[0].when() <= now_s:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            ready.append(timer)
        aside = self._aside
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if aside:
                waiting = aside.get(handle._context.get(NODE, ""))  # type: ignore[attr-defined]
                if waiting is not None:
                    waiting.append(handle)
                    continue
            handle._run()

    def _move_clock(self) -> None:
        """Go to the next timer that is not cancelled."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1
        if not scheduled:
            raise DeadlockError
        self._now_s = max(self._now_s, scheduled[0].when())
        self._turns = 0

    def _purge(self) -> None:
        """Clear out cancelled timers."""
        kept = []
        for timer in self._scheduled:
            if timer._cancelled:
                timer._scheduled = False  # type: ignore[attr-defined]
            else:
                kept.append(timer)
        heapq.heapify(kept)
        self._scheduled[:] = kept
        self._timer_cancelled_count = 0

    def _write_to_self(self) -> None:
        """Wake from a wait: there is none."""

    def _process_events(self, event_list: Any) -> None:
        """Nothing is read from sockets."""

    def _note_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        self.faults.append((f"{NODE.get()}: {context.get('message')}", context.get("exception")))


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def spawn(loop: VirtualLoop, node: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run a coroutine as a node's."""
    context = Context()
    context.run(NODE.set, node)
    return loop.create_task(work, context=context)
