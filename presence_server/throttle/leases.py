"""How many of something each key has at a time, over all nodes, as leases: a dead node's are given back."""

from collections.abc import Callable
from typing import Final

from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

NAME: Final = "concurrent"
PLACE: Final = f"leases:{NAME}"
"""What tells its keys in the store from those of every rule (`Rule.place`)."""


class Leases:
    """Counts what is held; `renew` must be called several times in `ttl_ms`.

    Each node writes how many it holds, never by how much that changed: what is lost or comes late is put
    right by the next renewal. While the store is out of reach a node knows its own only, and `on_error`
    decides whether that is enough.
    """

    def __init__(self, limiter: Limiter, limit: int, ttl_ms: int) -> None:
        self._limiter = limiter
        self._held: dict[str, int] = {}
        self._ttl_ms = ttl_ms
        self._rule: Rule | None = None
        self.change_limit(limit)

    def change_limit(self, limit: int) -> None:
        """Set the most that one key may hold; 0: no limit. What is held beyond it stays."""
        self._rule = Rule(NAME, f"{limit}/{self._ttl_ms}ms") if limit else None

    def __len__(self) -> int:
        return len(self._held)

    def acquire(self, key: str, done: Callable[[bool], None]) -> None:
        """Take one more for a key; `done` is told whether it was there to be had, at once or later."""
        rule, store = self._rule, self._limiter.store
        held = self._held[key] = self._held.get(key, 0) + 1
        if rule is None or store is None:
            self._answer(key, done, admitted=rule is None or held <= rule.count)
            return

        def answered(said: list[int] | None) -> None:
            if said is None:
                self._answer(key, done, admitted=self._alone(rule, held))
            else:
                self._answer(key, done, admitted=said[0] == 1)

        places = [store.place(PLACE, key)]
        if not store.ask("lease", [rule], places, held, answered):
            self._answer(key, done, admitted=self._alone(rule, held))

    def release(self, key: str) -> None:
        """Give one back."""
        self._drop(key)
        self._keep(key)

    def renew(self) -> None:
        """Say of every key how many this node holds."""
        for key in self._held:
            self._keep(key)

    def _alone(self, rule: Rule, held: int) -> bool:
        return self._limiter.on_error != "closed" and held <= rule.count

    def _answer(self, key: str, done: Callable[[bool], None], *, admitted: bool) -> None:
        if not admitted:
            self._drop(key)
        done(admitted)

    def _drop(self, key: str) -> None:
        held = self._held.get(key, 0) - 1
        if held > 0:
            self._held[key] = held
        else:
            self._held.pop(key, None)

    def _keep(self, key: str) -> None:
        rule, store = self._rule, self._limiter.store
        if rule is not None and store is not None:
            places = [store.place(PLACE, key)]
            store.ask("keep", [rule], places, self._held.get(key, 0), lambda _: None)
