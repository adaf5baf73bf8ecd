"""Rules: what is limited, how much of it, and how it is counted."""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from presence_server.rates import LOG_MAX, CountingAlgorithm, Rate, parse_rate
from presence_server.throttle.calendar import Calendar

Algorithm: TypeAlias = Literal[CountingAlgorithm, "slots"]
ALGORITHMS: Final[tuple[CountingAlgorithm, ...]] = get_args(CountingAlgorithm)
"""The algorithms that count; `slots` are held and given back."""
BATCHED: Final = ("fixed", "bucket")
"""The algorithms whose tokens can be taken in batches: see `throttle/token_batches.py`."""
SLOTS_MAX: Final = 10_000
"""The most slots of a key: each is an entry."""


class RuleRow(NamedTuple):
    """A rule as the store's script takes it; times in µs.

    `most` is the rule's `count`. `boundaries` (since 1970) are those of the calendar around a moment, None where no
    calendar says when a window ends: three, so that a store whose clock is up to a period apart finds its own among
    them.
    """

    algorithm: Algorithm
    most: int
    window_us: int
    interval_us: float
    block_us: int
    boundaries: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: at most `limit` of something for each key.

    - `name` is part of the keys in the store and of the answers' headers.
    - `limit` reads `COUNT/WINDOW`, such as `60/60s`; units are `ms`, `s`, `m` and `h`. With the bucket it
      may have a `burst`: `50/1s burst 100`. `COUNT/PERIOD` (`second`, `minute`, `hour`, `day`, `week`,
      `month`, `year`) counts, from `day` on, by the calendar. `k` and `M` after a count are thousands and
      millions.
    - `algorithm`: `fixed` counts from a key's first hit to the end of the window; `sliding` keeps a log and
      is exact; `counter` weighs the window before; `bucket` is a token bucket (GCRA). `slots` limits how many
      there are at a time: COUNT slots, each free again after WINDOW unless it is renewed.
    - `block_ms`: after a refusal the key is refused for so long. 0: only until it is under the limit again.
    - `shadow`: count and say what would have been refused, refuse nothing.
    - `tz`: the time zone of a calendar quota, such as `Europe/Berlin`.
    - `lease`: take tokens out of the shared store in batches of up to so many and spend them here, for thousands
      of hits a second (`throttle/token_batches.py` has the bounds). 0: the store is asked about each hit.

    Raises `ValueError` naming the rule and what is wrong with it.
    """

    name: str
    limit: str
    algorithm: Algorithm = "fixed"
    block_ms: int = 0
    shadow: bool = False
    tz: str = "UTC"
    lease: int = 0
    count: int = field(init=False, compare=False)
    """The most that is admitted at once: the count, or the bucket's burst."""
    window_us: int = field(init=False, compare=False)
    """The window's length; of a calendar's period the nominal one."""
    interval_us: float = field(init=False, compare=False)
    """The interval at which a bucket gets a token."""
    window_s: float = field(init=False, compare=False)
    calendar: Calendar | None = field(init=False, repr=False, compare=False)
    """The calendar that ends the rule's windows, if one does."""
    place: str = field(init=False, repr=False, compare=False)
    """`KIND:NAME`, what its keys in the store are told apart by.

    The kind is the algorithm: none reads what another has written. Windows of a counter begin at multiples of
    their length, so that its kind has the length, too.
    """
    _row: RuleRow = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rate = self._rate()
        count = rate.count if rate.burst is None else rate.burst
        window_us = rate.window_ms * 1_000
        interval_us = window_us / rate.count
        kind = f"counter-{rate.window_ms}" if self.algorithm == "counter" else self.algorithm
        derived = {
            "count": count,
            "window_us": window_us,
            "interval_us": interval_us,
            "window_s": rate.window_ms / 1_000,
            "calendar": self._calendar(rate),
            "place": f"{kind}:{self.name}",
            "_row": RuleRow(self.algorithm, count, window_us, interval_us, self.block_ms * 1_000),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def row_at(self, wall_us: int) -> RuleRow:
        """Return the rule as the script takes it, with the boundaries around `wall_us` (µs since 1970)."""
        if self.calendar is None:
            return self._row
        boundaries = self.calendar.boundaries(wall_us)
        if self._row.boundaries is not boundaries:
            object.__setattr__(self, "_row", self._row._replace(boundaries=boundaries))
        return self._row

    def _rate(self) -> Rate:
        if not self.name or not self.name.isprintable() or not self.name.isascii() or len(self.name) > 64:
            raise ValueError(f"rule {self.name!r}: a name is 1 to 64 printable ASCII characters")
        if self.algorithm not in get_args(Algorithm):
            known = ", ".join(get_args(Algorithm))
            raise ValueError(f"rule {self.name!r}: no algorithm {self.algorithm!r}; there are {known}")
        try:
            rate = parse_rate(self.limit)
        except ValueError as exc:
            raise self._wrong_limit(str(exc)) from None
        if rate is None:
            raise ValueError(f"rule {self.name!r}: a rule needs a limit, such as 60/60s")
        if rate.burst is not None and self.algorithm != "bucket":
            raise self._wrong_limit("only the bucket has a burst")
        if rate.period is not None and self.algorithm != "fixed":
            raise self._wrong_limit(
                f"only the fixed window counts by the calendar; 24h is {24 * 3_600} s of any day"
            )
        self._check_numbers(rate)
        return rate

    def _check_numbers(self, rate: Rate) -> None:
        if self.algorithm == "sliding" and rate.count > LOG_MAX:
            raise self._wrong_limit(f"a sliding log counts to {LOG_MAX} at most")
        if self.algorithm == "slots" and (rate.count > SLOTS_MAX or self.block_ms):
            raise self._wrong_limit(f"there are {SLOTS_MAX} slots at most, and no block_ms")
        if self.lease and self.algorithm not in BATCHED:
            raise ValueError(f"rule {self.name!r}: a lease goes with {' and '.join(BATCHED)} alone")
        if not 0 <= self.lease <= rate.count:
            raise ValueError(f"rule {self.name!r}: lease is {self.lease}; it is from 0 to {rate.count}")
        if self.block_ms < 0:
            raise ValueError(f"rule {self.name!r}: block_ms is {self.block_ms}; it cannot be negative")

    def _calendar(self, rate: Rate) -> Calendar | None:
        if rate.period is None:
            if self.tz != "UTC":
                raise self._wrong_limit("a time zone belongs to a calendar quota, such as 1000/day")
            return None
        try:
            return Calendar(rate.period, self.tz)
        except ValueError as exc:
            raise ValueError(f"rule {self.name!r}: {exc}") from None

    def _wrong_limit(self, problem: str) -> ValueError:
        return ValueError(f"rule {self.name!r}: limit {self.limit!r}: {problem}")


def impossible(rule: Rule, cost: int) -> str:
    """Say why a cost is never admitted."""
    return f"rule {rule.name!r} admits a cost from 1 to {rule.count}, not {cost}"
