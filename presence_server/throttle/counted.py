"""The charge of a call, which can be corrected when its cost is known."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from presence_server.throttle.decision import Decision
    from presence_server.throttle.limiter import Limiter
    from presence_server.throttle.rule import Rule
    from presence_server.throttle.sync import SyncLimiter


class CountedCall:
    """One admitted call: the `decision`, the `rules` and the `key` it was counted by, and its `cost`."""

    def __init__(
        self, rules: "Sequence[Rule]", key: str, cost: int, decision: "Decision", *, shared: bool
    ) -> None:
        self.decision = decision
        self.rules = rules
        self.key = key
        self.cost = cost
        # What was decided without the store was not counted there, and giving it back would be a gift.
        self._is_counted = decision.source == ("redis" if shared else "local")


class Counted(CountedCall):
    """A call that an asynchronous limiter has counted."""

    def __init__(
        self, limiter: "Limiter", rules: "Sequence[Rule]", key: str, cost: int, decision: "Decision"
    ) -> None:
        super().__init__(rules, key, cost, decision, shared=limiter.store is not None)
        self._limiter = limiter

    async def refund(self, cost: int | None = None) -> bool:
        """Give back `cost`, or all that was counted; return False where nothing was.

        Raises what `Limiter.refund` raises.
        """
        if self._is_counted:
            for rule in self.rules:
                await self._limiter.refund(rule, self.key, self.cost if cost is None else cost)
        return self._is_counted

    async def charge(self, cost: int) -> None:
        """Count `cost` more, up to the limit of each rule. Raises what `Limiter.charge` raises."""
        for rule in self.rules:
            await self._limiter.charge(rule, self.key, cost)


class SyncCounted(CountedCall):
    """A call that a `SyncLimiter` has counted."""

    def __init__(
        self, limiter: "SyncLimiter", rules: "Sequence[Rule]", key: str, cost: int, decision: "Decision"
    ) -> None:
        super().__init__(rules, key, cost, decision, shared=limiter.shared)
        self._limiter = limiter

    def refund(self, cost: int | None = None) -> bool:
        """Give back `cost`, or all that was counted; return False where nothing was."""
        if self._is_counted:
            for rule in self.rules:
                self._limiter.refund(rule, self.key, self.cost if cost is None else cost)
        return self._is_counted

    def charge(self, cost: int) -> None:
        """Count `cost` more, up to the limit of each rule."""
        for rule in self.rules:
            self._limiter.charge(rule, self.key, cost)
