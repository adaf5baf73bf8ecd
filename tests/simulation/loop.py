"""An asyncio event loop on virtual time: where it would wait, the clock moves, and nothing is ever read from a socket.

Each callback belongs to the node whose context it was scheduled in (`NODE`). A frozen node's callbacks and due timers
are put aside, in their order, until it is thawed; a killed node's are put aside for good.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, Final, Literal

NODE: Final = ContextVar("NODE", default="")
"""Whose callback is running: the name of a node or of the store; "": the world's own."""
BEGINNING_S: Final = 1_000.0
"""What `time()` says at first: no deadline is 0 by accident."""
ThawOrder = Literal["as it came", "timers first", "deliveries first"]
TURNS_MAX: Final = 100_000
"""Turns of the loop without a move of the clock, after which something is taken to spin."""
PURGED_AT: Final = 500
"""Cancelled timers that are kept among those to come; beyond them they are cleared out."""


class DeadlockError(Exception):
    """Nothing is scheduled, so that nothing can ever happen again."""


class SpinError(Exception):
    """Callbacks schedule callbacks without end, and the clock never moves."""


class Delivery(asyncio.Handle):
    """Something that is done at a time and never cancelled; made at a third of the cost of a timer."""

    __slots__ = ("_faults", "_scheduled")
    _cancelled = False

    def __init__(
        self, callback: Callable[[], object], context: Context, faults: list[tuple[str, BaseException | None]]
    ) -> None:
        self._callback = callback
        self._context = context
        self._faults = faults

    def _run(self) -> None:
        try:
            self._context.run(self._callback)
        except Exception as exc:
            node = self._context.get(NODE, "")
            if not node:  # whoever plays with the world hears of it at once
                raise
            self._faults.append((node, exc))


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop that jumps to its next timer. `faults` are exceptions that no callback or task has caught."""

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        # Of their own, since the base class's are compared in Python: that was a tenth of a run.
        self._timers: list[tuple[float, int, Any]] = []
        self._numbers = count()
        self._cancelled_timers = 0
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

    def call_at(  # type: ignore[override]  # its stub has type variables of a later Python
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have something called at a time; of what is due at one time the first that was asked for comes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # as asyncio's loops do
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(  # type: ignore[override]  # as above
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Have something called after a delay."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]  # as above
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Have something called in the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def deliver(self, when: float, callback: Callable[[], object], context: Context) -> None:
        """Have something done at a time, for good: as `call_at`, but for a third of the cost."""
        heapq.heappush(self._timers, (when, next(self._numbers), Delivery(callback, context, self.faults)))

    def run_for(self, ms: float) -> None:
        """Do all that is due within `ms` of virtual time."""
        self.call_at(self._now_s + ms / 1_000, self.stop, context=Context())
        self.run_forever()

    def freeze(self, node: str) -> None:
        """Put aside what a node does from now on; freezing a frozen one changes nothing."""
        self._aside.setdefault(node, [])

    def thaw(self, node: str, order: ThawOrder = "as it came") -> None:
        """Let a node go on with what was put aside: uvloop runs what is due before it reads, asyncio after it."""
        waiting = self._aside.pop(node, [])
        if order != "as it came":
            waiting.sort(key=lambda handle: isinstance(handle, Delivery) is (order == "timers first"))
        self._ready.extend(waiting)

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
        """Take turns until `stop`: move the clock where there is nothing to do now, then run what is due."""
        ready, timers, aside = self._ready, self._timers, self._aside
        while True:
            if not ready:
                self._move_clock()
            self._turns += 1
            if self._turns > TURNS_MAX:
                raise SpinError([repr(handle) for handle in list(ready)[:5]])
            now_s = self._now_s
            while timers and timers[0][0] <= now_s:
                due = heapq.heappop(timers)[2]
                due._scheduled = False
                ready.append(due)
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not (handle._cancelled or (aside and self._put_aside(handle))):
                    handle._run()
            if self._stopping:
                return

    def _put_aside(self, handle: asyncio.Handle) -> bool:
        """Keep what a frozen node would do for later; tell whether it is one's."""
        waiting = self._aside.get(handle._context.get(NODE, ""))  # type: ignore[attr-defined]  # private
        if waiting is None:
            return False
        waiting.append(handle)
        return True

    def _move_clock(self) -> None:
        """Go to the next timer that is not cancelled."""
        timers = self._timers
        if self._cancelled_timers > PURGED_AT:
            timers[:] = [entry for entry in timers if not entry[2]._cancelled]
            heapq.heapify(timers)
            self._cancelled_timers = 0
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        if not timers:
            raise DeadlockError
        self._now_s = max(self._now_s, timers[0][0])
        self._turns = 0

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Note that one timer more is there for nothing."""
        del handle
        self._cancelled_timers += 1

    def _write_to_self(self) -> None:
        """Wake from a wait: there is none."""

    def _process_events(self, event_list: Any) -> None:
        """Nothing is read from sockets."""

    def _note_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        handle = context.get("handle")
        node = "" if handle is None else handle._context.get(NODE, "")
        self.faults.append((f"{node}: {context.get('message')}", context.get("exception")))


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def spawn(loop: VirtualLoop, node: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run a coroutine as a node's."""
    context = Context()
    context.run(NODE.set, node)
    return loop.create_task(work, context=context)
