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
        self._denied: dict[str, Denied] = {}

    def __len__(self) -> int:
        return len(self._denied)

    @property
    def any(self) -> bool:
        """Whether there is anything to find."""
        return bool(self._denied)

    def note(self, place: str, cost: int, verdict: Verdict, now_us: int) -> None:
        """Remember that `cost` was refused at a place (a rule's key in the store)."""
        known = self._denied.pop(place, None)
        if known is not None and known.cost < cost and known.until_us > now_us:
            self._denied[place] = known
            return
        until_us = now_us + verdict.retry_us
        self._denied[place] = Denied(cost, until_us, now_us + verdict.reset_us, verdict.remaining)
        if len(self._denied) > self._keys_max:
            del self._denied[next(iter(self._denied))]

    def find(self, place: str, cost: int, now_us: int) -> Verdict | None:
        """Return the refusal of `cost` at a place, if there is one."""
        denied = self._denied.get(place)
        if denied is None:
            return None
        if denied.until_us <= now_us:
            del self._denied[place]
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
        self._denied.pop(place, None)

    def clear(self) -> None:
        """Forget everything."""
        self._denied.clear()
