"""Keeps a node at the policy that is stored: it hears of changes, and looks every few seconds in case it did not."""

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import anyio.to_thread
import structlog

from presence_server.errors import PresenceError, StoreAwayError
from presence_server.redis_io.client import AWAY
from presence_server.throttle import policy as rules_of_policy
from presence_server.throttle.lists import AccessLists
from presence_server.throttle.policy import NewerPolicyError, Policy, PolicyError
from presence_server.throttle.policy_store import Mark, PolicyStore, new_tag

LOOK_S: Final = 2.0
"""The interval at which a node looks for changes that it was not told of."""
ATTEMPTS_MAX: Final = 10
"""The most attempts at a change that others came before."""
Edit = Callable[[Policy], Policy | None]
log = structlog.get_logger()


class PolicyConflictError(PresenceError):
    """The policy is at another version than the change is for; nothing was changed."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the policy is at version {version}")
        self.version = version


class PolicyFollower:
    """The policy in force on this node, and changes of the stored one.

    `apply(policy, lists)` is called with each policy that comes into force. `now_ms` is the clock that entries end
    by, the store's. A document that is not understood is logged and leaves what is in force; a single record of it
    is logged and left out. A store that was wiped, or has gone back to an older version, is given the newest again.
    """

    def __init__(
        self, store: PolicyStore, apply: Callable[[Policy, AccessLists], None], now_ms: Callable[[], int]
    ) -> None:
        self.policy = Policy()
        self.version = 0
        """The version of the policy in force; 0: there has never been one."""
        self.problem = ""
        """The part of the stored policy that is not understood; "": none."""
        self._store = store
        self._apply = apply
        self._now_ms = now_ms
        self._mark = Mark()
        self._document = b""
        self._looking = anyio.Lock()
        self._wanted = anyio.Event()
        self._failure = ""

    def look_soon(self) -> None:
        """Have the store looked at now."""
        self._wanted.set()

    async def run(self) -> None:
        """Follow the stored policy, for ever."""
        while True:
            self._wanted = anyio.Event()
            try:
                await self.look_for_change()
            except StoreAwayError:
                pass  # whoever keeps contact says so, and wakes this when it is back
            except AWAY as exc:
                self._fail(f"the stored policy cannot be asked for: {exc}")
            else:
                self._failure = ""
            with anyio.move_on_after(LOOK_S):
                await self._wanted.wait()

    async def look_for_change(self) -> None:
        """Bring what is stored into force. Raises `StoreAwayError`."""
        async with self._looking:
            found = await self._store.read_policy(self._mark)
            if found.mark.version < self._mark.version:
                await self._store.replace_policy(found.mark.version, self._mark, self._document)
            elif found.document is not None and found.mark != self._mark:
                await self._take(found.mark, found.document)

    async def change_policy(self, edit: Edit, expected: int | None = None) -> int:
        """Store what `edit` makes of the present policy, and return its version; None of `edit`: change nothing.

        Raises `PolicyConflictError` where `expected` is another version than the stored one, `PolicyError` for a
        policy that cannot be, `StoreAwayError` where it is not known whether it is stored.
        """
        for _ in range(ATTEMPTS_MAX):
            await self.look_for_change()
            present = self._mark.version
            if expected not in {None, present}:
                break
            if self.problem:
                raise NewerPolicyError(f"a newer node must make this change: {self.problem}")
            edited = edit(self.policy)
            if edited is None:
                return self.version
            edited = rules_of_policy.without_ended(edited, self._now_ms())
            document = await anyio.to_thread.run_sync(rules_of_policy.write, edited)
            new = Mark(present + 1, new_tag())
            if await self._store.replace_policy(present, new, document):
                await self.look_for_change()
                return new.version
        raise PolicyConflictError(self._mark.version)

    async def _take(self, mark: Mark, document: bytes) -> None:
        """Bring a document into force as far as it is understood; known as seen only at the end, if it gets there."""
        try:
            reading = await anyio.to_thread.run_sync(rules_of_policy.read, document)
        except PolicyError as exc:
            self._mark, self._document = mark, document
            self.problem = str(exc)
            log.warning("the stored policy stays out of force", version=mark.version, problem=self.problem)
            return
        self.problem = "; ".join(reading.problems[:3])
        for problem in reading.problems:
            log.warning(
                "a record of the stored policy stays out of force", version=mark.version, problem=problem
            )
        lists = await anyio.to_thread.run_sync(
            partial(rules_of_policy.lists_of, reading.policy, self._now_ms)
        )
        self._mark, self._document = mark, document
        self.policy, self.version = reading.policy, mark.version
        self._apply(reading.policy, lists)
        log.info("policy in force", version=mark.version, rules=len(reading.policy.rules), entries=len(lists))

    def _fail(self, text: str) -> None:
        if text != self._failure:
            self._failure = text
            log.warning("the policy in force stays as it is", error=text)
