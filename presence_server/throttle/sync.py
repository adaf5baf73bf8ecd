"""The limiter without `async`: for threads, such as those of WSGI servers.

limiter = SyncLimiter([Rule("login", "5/60s")], redis="redis://localhost:6379")
decision = limiter.hit("login", user)
"""

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from presence_server.rates import OnError
from presence_server.throttle.fallback import OnErrorHook
from presence_server.throttle.limiter import (
    DEADLINE_MS,
    SHORTEST_WAIT_S,
    Limiter,
)
from presence_server.throttle.memory import KEYS_MAX

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from presence_server.throttle.decision import Decision
    from presence_server.throttle.rule import Rule
    from presence_server.throttle.slots import Slot

CLOSING_S: Final = 5.0
"""The longest that `close` waits for connections to end."""
LOOKED_AFTER_S: Final = 1.0
"""The interval at which a waiting thread checks that the loop still runs."""
Answer = TypeVar("Answer")
_limiters: "Final[weakref.WeakSet[SyncLimiter]]" = weakref.WeakSet()
_held: "Final[list[threading.RLock]]" = []
_abandoned: Final[list[object]] = []
"""Objects of the process that this one was forked from. Ending them would touch the parent's event loop."""


class SyncLimiter:
    """A `Limiter` that any number of threads may use: the same rules, options, decisions and errors.

    With a shared store its event loop runs in a thread of its own, which the first call starts; what threads
    ask at one time travels together. There `on_decision` and a function for `on_error` are called, too; a
    method that waits raises `RuntimeError` in that thread, as does every call after `close`. Without a store
    there is a lock, and a thread only once a slot is asked for. After `os.fork` the child has connections of
    its own or, without a store, goes on by itself from what was counted. Close it with `close`, or as a context
    manager; at the end of the process that happens by itself.
    """

    def __init__(
        self,
        rules: "Iterable[Rule]" = (),
        *,
        redis: "str | Redis" = "",
        prefix: str = "ps",
        on_error: OnError | OnErrorHook = "open",
        deadline_ms: int = DEADLINE_MS,
        keys_max: int = KEYS_MAX,
        nodes: int | Callable[[], int] = 1,
        on_decision: "Callable[[Decision], None] | None" = None,
    ) -> None:
        def make(rules: "Iterable[Rule]") -> Limiter:
            return Limiter(
                rules,
                redis=redis,
                prefix=prefix,
                on_error=on_error,
                deadline_ms=deadline_ms,
                keys_max=keys_max,
                nodes=nodes,
                on_decision=on_decision,
            )

        self._make = make
        self._limiter = make(rules)
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        _limiters.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)

    @property
    def rules(self) -> "Mapping[str, Rule]":
        """The rules by name."""
        return self._limiter.rules

    @property
    def shared(self) -> bool:
        """Whether it counts in a store that others share."""
        return self._limiter.store is not None

    def connect(self, timeout_s: float = 5.0) -> bool:
        """Connect to the shared store, as the first decision would; return whether it is reached."""
        return self._call(lambda: self._limiter.connect(timeout_s))

    def allow(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Admit a key, or every address of a network, uncounted; see `Limiter.allow`."""
        self._do(lambda: self._limiter.allow(key, network=network, rule=rule, ttl=ttl))

    def deny(self, key: str = "", *, network: str = "", rule: str = "", ttl: float | None = None) -> None:
        """Refuse a key, or every address of a network; see `Limiter.allow`."""
        self._do(lambda: self._limiter.deny(key, network=network, rule=rule, ttl=ttl))

    def unlist(self, key: str = "", *, network: str = "", rule: str = "") -> bool:
        """Take a key or a network off the lists; return whether it was on one."""
        return self._do(lambda: self._limiter.unlist(key, network=network, rule=rule))

    def change_rules(self, rules: "Iterable[Rule]") -> None:
        """Replace the rules; see `Limiter.change_rules`."""
        changed = list(rules)
        self._do(lambda: self._limiter.change_rules(changed))

    def hit(self, rule: "str | Rule | Sequence[str | Rule]", key: str, cost: int = 1) -> "Decision":
        """Count `cost` for a key, if every rule admits it; see `Limiter.hit`."""
        if not self.shared:
            return self._call(lambda: self._limiter.hit(rule, key, cost))
        decided: Future[Decision] = Future()

        def decide() -> None:
            try:
                self._limiter.decide(rule, key, cost, decided.set_result)
            except Exception as exc:  # noqa: BLE001 - raised in the caller's thread
                decided.set_exception(exc)

        self._running().call_soon_threadsafe(decide)
        return self._result(decided)

    def peek(self, rule: "str | Rule", key: str, cost: int = 1) -> "Decision":
        """Say what `hit` would, and count nothing."""
        return self._call(lambda: self._limiter.peek(rule, key, cost))

    def refund(self, rule: "str | Rule", key: str, cost: int = 1) -> "Decision":
        """Give back what was counted, never more; see `Limiter.refund`."""
        return self._call(lambda: self._limiter.refund(rule, key, cost))

    def charge(self, rule: "str | Rule", key: str, cost: int = 1) -> "Decision":
        """Count `cost` without asking whether it fits, up to the limit; see `Limiter.charge`."""
        return self._call(lambda: self._limiter.charge(rule, key, cost))

    def reset(self, rule: "str | Rule", key: str) -> "Decision":
        """Forget what was counted, and a block, on every node; see `Limiter.reset`."""
        return self._call(lambda: self._limiter.reset(rule, key))

    def block(self, rule: "str | Rule", key: str, ms: int) -> "Decision":
        """Refuse a key for `ms`; see `Limiter.block`."""
        return self._call(lambda: self._limiter.block(rule, key, ms))

    def wait(
        self,
        rule: "str | Rule | Sequence[str | Rule]",
        key: str,
        cost: int = 1,
        *,
        timeout_s: float | None = None,
    ) -> "Decision":
        """Sleep until `hit` admits. Where that would take longer than `timeout_s`, return the refusal, at once."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            decision = self.hit(rule, key, cost)
            delay_s = max(decision.retry_after, SHORTEST_WAIT_S)
            if decision.allowed or (until_s is not None and time.monotonic() + delay_s > until_s):
                return decision
            time.sleep(delay_s)

    @contextmanager
    def slot(
        self, rule: "str | Rule", key: str, on_lost: Callable[[], None] | None = None
    ) -> "Iterator[Slot]":
        """Hold one of a rule's slots in a `with`; see `Limiter.slot`. `on_lost` is called in the loop's thread.

        A process that is forked meanwhile does not hold it.
        """
        from presence_server.throttle.slots import Slot  # noqa: PLC0415 - few need it

        slot = self._limiter.slot(rule, key, on_lost)
        if not self.shared:
            slot = Slot(cast("Limiter", _Locked(self._limiter, self._lock)), slot.rule, key, on_lost)
        loop = self._running()
        self._result(asyncio.run_coroutine_threadsafe(slot.__aenter__(), loop))
        try:
            yield slot
        finally:
            if self._loop is loop:
                self._result(asyncio.run_coroutine_threadsafe(slot.__aexit__(None, None, None), loop))

    def close(self) -> None:
        """Close every connection and end the thread; a second time does nothing."""
        self._refuse_own_thread()
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None or not thread.is_alive():
            return
        closing = asyncio.run_coroutine_threadsafe(self._limiter.aclose(), loop)
        closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        thread.join(CLOSING_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the loop, whose thread runs."""
        self._refuse_own_thread()
        with self._lock:
            self._refuse_closed()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._loop,), name="presence-throttle", daemon=True
                )
                self._thread.start()
            return self._loop

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this SyncLimiter is closed")

    def _refuse_own_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise RuntimeError("a SyncLimiter cannot wait in the thread that has to answer it")

    def _call(self, make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run a coroutine and return what it does: in the loop's thread or, where it waits for nothing, here."""
        if not self.shared:
            with self._lock:
                self._refuse_closed()
                return _run(make())
        loop = self._running()
        return self._result(asyncio.run_coroutine_threadsafe(make(), loop))

    def _do(self, change: Callable[[], Answer]) -> Answer:
        """Call a function where nothing is decided meanwhile."""

        async def call() -> Answer:
            return change()

        return self._call(call)

    def _result(self, future: "Future[Answer]") -> Answer:
        """Wait for an answer: as long as it takes, where there is a thread to give it."""
        thread = self._thread
        try:
            while not future.done():
                try:
                    return future.result(LOOKED_AFTER_S)
                except TimeoutError:
                    if not future.done() and (thread is None or not thread.is_alive()):
                        raise RuntimeError("this SyncLimiter was closed before it had decided") from None
            return future.result()
        except CancelledError:
            raise RuntimeError("this SyncLimiter was closed before it had decided") from None
        except BaseException:
            future.cancel()
            raise

    def _begin_anew(self) -> None:
        """Begin anew in a process that was forked, where the thread is not."""
        self._lock = threading.RLock()
        if self._loop is None:
            return
        _abandoned.extend((self._loop, self._thread, self._limiter))
        if self.shared:
            lists = self._limiter.lists
            self._limiter = self._make(self._limiter.rules.values())
            self._limiter.lists = lists
        self._loop = self._thread = None


class _Locked:
    """The part of a limiter that a slot asks, for the loop's thread while others count in theirs."""

    def __init__(self, limiter: Limiter, lock: "threading.RLock") -> None:
        self._limiter = limiter
        self._lock = lock

    def ask_slot(self, *arguments: Any) -> None:
        with self._lock:
            self._limiter.ask_slot(*arguments)

    def slot_decision(self, *arguments: Any) -> "Decision":
        with self._lock:
            return self._limiter.slot_decision(*arguments)


def _run(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    coroutine.close()
    raise RuntimeError("a limiter without a store waits for nothing")


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped; then cancel what it still does."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()


def _before_fork() -> None:
    """Wait until no thread is in the middle of counting: in the child it would never get to the end."""
    for limiter in list(_limiters):
        if limiter._lock.acquire(timeout=LOOKED_AFTER_S):  # noqa: SLF001 - this module's own
            _held.append(limiter._lock)  # noqa: SLF001 - as above


def _after_fork_here() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    _held.clear()
    for limiter in list(_limiters):
        limiter._begin_anew()  # noqa: SLF001 - this module's own


def _close_all() -> None:
    for limiter in list(_limiters):
        limiter.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_here, after_in_child=_after_fork_in_child
    )
atexit.register(_close_all)
