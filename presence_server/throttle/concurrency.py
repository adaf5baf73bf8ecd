"""Concurrency limits, pure: slots that are acquired, renewed and released by token.

`lua/slots.lua` has the same. A slot that is not renewed within the rule's window is free again: its holder is taken
to have died. Times are µs.
"""

from itertools import islice
from typing import NoReturn, TypeAlias

from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Rule

Held: TypeAlias = dict[str, int]
"""The end of each token's slot, the earliest first."""


class Slots:
    """State: `Held`, which is changed in place. `remaining` is how many are free after what was asked."""

    def look(self, state: Held | None, rule: Rule, cost: int, now: int) -> Verdict:
        """Say whether `cost` slots are free, or else when they would be if nobody renewed."""
        held = self._tidy(state, now)
        remaining = max(rule.count - len(held), 0)
        reset = next(reversed(held.values())) - now if held else 0
        if cost <= remaining:
            return Verdict(True, remaining, 0, reset)
        # After a change of the rule more slots may be held than it has.
        until = next(islice(held.values(), len(held) - rule.count + cost - 1, None))
        return Verdict(False, remaining, until - now, reset)

    def acquire(self, state: Held | None, rule: Rule, token: str, now: int) -> tuple[Held, Verdict]:
        """Take a slot, or renew the one that the token has: asking twice takes no second one."""
        held = self._tidy(state, now)
        if token not in held and len(held) >= rule.count:
            return held, self.look(held, rule, 1, now)
        return held, self._hold(held, rule, token, now)

    def renew(self, state: Held | None, rule: Rule, token: str, now: int) -> tuple[Held, Verdict]:
        """Hold a slot for longer; refused where the token has none any more, even if others are free."""
        held = self._tidy(state, now)
        if token not in held:
            look = self.look(held, rule, 1, now)
            return held, Verdict(False, look.remaining, look.retry_us, look.reset_us)
        return held, self._hold(held, rule, token, now)

    def release(self, state: Held | None, rule: Rule, token: str, now: int) -> tuple[Held, Verdict]:
        """Give a slot back; return as `look` does."""
        held = self._tidy(state, now)
        held.pop(token, None)
        return held, self.look(held, rule, 1, now)

    def adapt(self, state: Held, rule: Rule, now: int) -> Held:
        """Keep what is held for as long as it was promised."""
        del rule, now
        return state

    def ends(self, state: Held, rule: Rule) -> int:
        """Return when no slot is held any more."""
        del rule
        return next(reversed(state.values())) if state else 0

    def hit(self, state: Held | None, rule: Rule, cost: int, now: int) -> NoReturn:
        """Refuse: what is held is given back, what is hit is not."""
        del state, cost, now
        raise ValueError(f"rule {rule.name!r} has slots: acquire one")

    def refund(self, state: Held, rule: Rule, cost: int, now: int) -> NoReturn:
        """See `hit`."""
        self.hit(state, rule, cost, now)

    def block(self, state: Held | None, rule: Rule, until: int, now: int) -> NoReturn:
        """See `hit`."""
        self.hit(state, rule, until, now)

    def _hold(self, held: Held, rule: Rule, token: str, now: int) -> Verdict:
        held.pop(token, None)
        until = now + rule.window_us
        last = next(reversed(held.values())) if held else until
        held[token] = until
        if until < last:
            # The rule's window has been made shorter: keep to the order.
            ordered = sorted(held.items(), key=lambda item: item[1])
            held.clear()
            held.update(ordered)
        return Verdict(True, max(rule.count - len(held), 0), 0, max(until, last) - now)

    @staticmethod
    def _tidy(state: Held | None, now: int) -> Held:
        held = {} if state is None else state
        while held and held[token := next(iter(held))] <= now:
            del held[token]
        return held
