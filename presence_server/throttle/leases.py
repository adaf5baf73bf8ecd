"""Concurrency limits over all nodes, such as connections of an address, as leases: those of a dead node end."""

from collections.abc import Callable
from functools import partial
from typing import Final

from presence_server.throttle.batch import ALLOWED, CALL_MAX, GivenUp, StoreAnswer
from presence_server.throttle.decision import Decision, Late, Source
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

NAME: Final = "concurrent"
PLACE: Final = f"leases:{NAME}"
"""The prefix that tells the keys of leases in the store from those of every rule (`Rule.place`)."""


class Leases:
    """Counts what is held; `renew_leases` must be called several times in `ttl_ms`.

    Each node writes how many it holds, never by how much that changed: what is lost or comes late is put
    right by the next renewal. While the store is out of reach a node knows its own only, and `on_error`
    decides whether that is enough. Decisions are reported as those of the rule `concurrent`.
    """

    def __init__(self, limiter: Limiter, limit: int, ttl_ms: int) -> None:
        self._limiter = limiter
        self._held: dict[str, int] = {}
        self._ttl_ms = ttl_ms
        self._rule: Rule | None = None
        self._to_renew: list[str] = []
        self._renewing = False
        self.change_limit(limit)

    def change_limit(self, limit: int) -> None:
        """Set the most that one key may hold; 0: no limit. What is held beyond it stays."""
        self._rule = Rule(NAME, f"{limit}/{self._ttl_ms}ms") if limit else None

    def __len__(self) -> int:
        return len(self._held)

    def acquire_lease(self, key: str, done: Callable[[bool], None]) -> None:
        """Take one more for a key; `done` is told whether it was there to be had, at once or later."""
        rule, store = self._rule, self._limiter.store
        held = self._held[key] = self._held.get(key, 0) + 1
        if rule is None or store is None:
            self._decide(key, done, rule, admitted=rule is None or held <= rule.count, source="local")
            return

        def answered(answer: StoreAnswer) -> None:
            if isinstance(answer, GivenUp):
                self._decide_alone(key, done, rule, held, answer)
            else:
                late: Late = "self" if type(answer) is not list else ""
                self._decide(key, done, rule, admitted=answer[ALLOWED] == 1, source="redis", late=late)

        refused = store.ask("lease", [rule], [store.place(PLACE, key)], held, answered)
        if refused is not None:
            self._decide_alone(key, done, rule, held, refused)

    def release_lease(self, key: str) -> None:
        """Give one back."""
        self._drop_key(key)
        rule, store = self._rule, self._limiter.store
        if rule is not None and store is not None:
            store.keep(rule, [(store.place(PLACE, key), partial(self._held_of, key))], lambda _: None)

    def renew_leases(self) -> None:
        """Say of every key how many this node holds: a slice at a time, each when the one before is done.

        A renewal that is still under way goes on; its keys are not begun again.
        """
        if not self._renewing:
            self._to_renew = [*self._held]
            self._renew_slice()

    def _renew_slice(self, answer: StoreAnswer | None = None) -> None:
        rule, store = self._rule, self._limiter.store
        self._renewing = False
        if rule is None or store is None or isinstance(answer, GivenUp):
            return
        keys = self._to_renew[-CALL_MAX:]
        del self._to_renew[-CALL_MAX:]
        held = [(store.place(PLACE, key), partial(self._held_of, key)) for key in keys if key in self._held]
        if held:
            self._renewing = store.keep(rule, held, self._renew_slice)
        elif self._to_renew:
            self._renew_slice()

    def _decide_alone(
        self, key: str, done: Callable[[bool], None], rule: Rule, held: int, why: GivenUp
    ) -> None:
        closed = self._limiter.on_error == "closed"
        admitted = not closed and held <= rule.count
        self._decide(
            key, done, rule, admitted=admitted, source="closed" if closed else "local", late=why.value
        )

    def _decide(
        self,
        key: str,
        done: Callable[[bool], None],
        rule: Rule | None,
        *,
        admitted: bool,
        source: Source,
        late: Late = "",
    ) -> None:
        """Report a decision, and tell who asked."""
        if rule is not None and self._limiter.on_decision is not None:
            remaining = max(rule.count - self._held.get(key, 0), 0)
            self._limiter.on_decision(
                Decision(admitted, rule.count, remaining, 0.0, 0.0, NAME, source, rule.window_s, late=late)
            )
        if not admitted:
            self._drop_key(key)
        done(admitted)

    def _held_of(self, key: str) -> int:
        return self._held.get(key, 0)

    def _drop_key(self, key: str) -> None:
        held = self._held.get(key, 0) - 1
        if held > 0:
            self._held[key] = held
        else:
            self._held.pop(key, None)
