"""Keys that are known to be refused for a while, so that an attacker costs the store nothing."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import RuleRow

KEYS_MAX: Final = 100_000


class Denied(NamedTuple):
    """A refusal by a rule (its row): of `cost` or more, until `until_us`."""

    row: RuleRow
    cost: int
    until_us: int
    reset_at_us: int
    remaining: int


class DenyCache:
    """Remembers refusals; at `keys_max` the oldest goes, which costs the store one question."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self.entries: dict[str, Denied] = {}
        """The known refusals; public, since asking whether there is any must cost nothing."""

    def __len__(self) -> int:
        return len(self.entries)

    def note_refused(self, place: str, row: RuleRow, cost: int, said: Sequence[int], now_us: int) -> None:
        """Remember what the store said in refusing `cost` at a place (a rule's key in the store).

        `said` is that verdict: 0, remaining, retry (µs), reset (µs), blocked.
        """
        known = self.entries.pop(place, None)
        if known is not None and known.row == row and known.cost < cost and known.until_us > now_us:
            self.entries[place] = known
            return
        _, remaining, retry_us, reset_us, _ = said
        self.entries[place] = Denied(row, cost, now_us + retry_us, now_us + reset_us, remaining)
        if len(self.entries) > self._keys_max:
            del self.entries[next(iter(self.entries))]

    def find_refusal(self, place: str, row: RuleRow, cost: int, now_us: int) -> Verdict | None:
        """Return the refusal of `cost` at a place, if there is one by this very rule and not by another version."""
        denied = self.entries.get(place)
        if denied is None or denied.row != row:
            return None
        if denied.until_us <= now_us:
            del self.entries[place]
            return None
        if cost < denied.cost:
            return None
        retry_us = denied.until_us - now_us
        return Verdict(
            allowed=False,
            remaining=denied.remaining,
            retry_us=retry_us,
            reset_us=max(denied.reset_at_us - now_us, retry_us),
        )

    def purge(self, place: str) -> None:
        """Forget a refusal: the key was reset, given something back, or blocked."""
        self.entries.pop(place, None)

    def forget_refusals(self) -> None:
        """Forget everything."""
        self.entries.clear()
