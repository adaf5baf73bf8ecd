"""Keys that are known to be refused for a while, so that an attacker costs the store nothing."""

from typing import Final, NamedTuple

from presence_server.throttle.decision import Verdict

KEYS_MAX: Final = 100_000


class Denied(NamedTuple):
    """A refusal: of `cost` or more, until `until_us`."""

    cost: int
    until_us: int
    reset_at_us: int
    remaining: int


class DenyCache:
    """Remembers refusals; at `keys_max` the oldest goes, which costs the store one question."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self.entries: dict[str, Denied] = {}
        """What is known; public, since asking whether there is any must cost nothing."""

    def __len__(self) -> int:
        return len(self.entries)

    def note(self, place: str, cost: int, verdict: Verdict, now_us: int) -> None:
        """Remember that `cost` was refused at a place (a rule's key in the store)."""
        known = self.entries.pop(place, None)
        if known is not None and known.cost < cost and known.until_us > now_us:
            self.entries[place] = known
            return
        until_us = now_us + verdict.retry_us
        self.entries[place] = Denied(cost, until_us, now_us + verdict.reset_us, verdict.remaining)
        if len(self.entries) > self._keys_max:
            del self.entries[next(iter(self.entries))]

    def find(self, place: str, cost: int, now_us: int) -> Verdict | None:
        """Return the refusal of `cost` at a place, if there is one."""
        denied = self.entries.get(place)
        if denied is None:
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

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
