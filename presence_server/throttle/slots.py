"""One slot of a rule, held and renewed for as long as an `async with` goes on."""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from presence_server.throttle.batch import GivenUp, Verb
from presence_server.throttle.decision import Decision, Verdict
from presence_server.throttle.errors import ThrottledError
from presence_server.throttle.rule import Rule

if TYPE_CHECKING:
    from presence_server.throttle.limiter import Limiter

RENEWALS: Final = 3
"""The number of renewals of a slot in the rule's window, so that a lost renewal loses no slot."""
Answered: TypeAlias = Callable[[Verdict | GivenUp], None]


class NoSlotError(ThrottledError):
    """All slots of a rule are held; `decision` says when one ends unless it is renewed."""

    def _detail(self) -> str:
        return f"no slot of rule {self.decision.rule!r} is free: all {self.decision.limit} are held"


class Slot:
    """Asks for a slot on entering, renews it, and gives it back on leaving. To be entered once.

    Entering raises `NoSlotError` where none is free. A renewal that finds the slot gone (the store was emptied, or
    this process frozen for longer than the window) takes another; where there is none, `lost` is set and `on_lost`
    called once: others may hold as many as there are.
    """

    def __init__(
        self, limiter: "Limiter", rule: Rule, key: str, on_lost: Callable[[], None] | None = None
    ) -> None:
        self.rule = rule
        self.key = key
        self.token: Final = os.urandom(12).hex()
        self.lost = False
        self.decision: Decision | None = None
        """The decision on entering."""
        self._limiter = limiter
        self._on_lost = on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        answered: asyncio.Future[Verdict | GivenUp] = asyncio.get_running_loop().create_future()
        try:
            self._ask("acquire", lambda answer: None if answered.done() else answered.set_result(answer))
            self.decision = self._limiter.slot_decision(self.rule, self.key, self.token, await answered)
        except BaseException:
            self._leave()
            raise
        if not self.decision.allowed:
            if self.decision.source != "redis":
                self._leave()  # where the store was late, it may have given a slot that nobody would give back
            self._left = True
            raise NoSlotError(self.decision)
        self._renew_later()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        # Nobody waits for the answer: a slot that could not be given back ends with its window.
        if self._timer is not None:
            self._timer.cancel()
        self._left = True
        self._ask("release", lambda _: None)

    def _renew_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.rule.window_s / RENEWALS, self._renew)

    def _renew(self) -> None:
        self._renew_later()
        self._ask("renew", self._renewed)

    def _renewed(self, answer: Verdict | GivenUp) -> None:
        if not (self._left or isinstance(answer, GivenUp) or answer.allowed):
            self._ask("acquire", self._acquired_again)

    def _acquired_again(self, answer: Verdict | GivenUp) -> None:
        if self._left or self.rule.shadow or isinstance(answer, GivenUp) or answer.allowed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.lost = True
        if self._on_lost is not None:
            self._on_lost()

    def _ask(self, verb: Verb, done: Answered) -> None:
        self._limiter.ask_slot(verb, self.rule, self.key, self.token, done)
