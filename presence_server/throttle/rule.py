"""What is limited, how much of it, and how it is counted."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from presence_server.rates import LOG_MAX, Rate, parse_rate

Algorithm: TypeAlias = Literal["fixed", "sliding", "counter", "bucket"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: at most `limit` of something for each key.

    - `name` is part of the keys in the store and of the answers' headers.
    - `limit` reads `COUNT/WINDOW`, such as `60/60s`; units are `ms`, `s`, `m` and `h`. With the bucket it
      may have a `burst`: `50/1s burst 100`.
    - `algorithm`: `fixed` counts from a key's first hit to the end of the window; `sliding` keeps a log and
      is exact; `counter` weighs the window before; `bucket` is a token bucket (GCRA).
    - `block_ms`: after a refusal the key is refused for so long. 0: only until it is under the limit again.
    - `shadow`: count and say what would have been refused, refuse nothing.

    Raises `ValueError` naming the rule and what is wrong with it.
    """

    name: str
    limit: str
    algorithm: Algorithm = "fixed"
    block_ms: int = 0
    shadow: bool = False
    count: int = field(init=False)
    """The most that is admitted at once: the count, or the bucket's burst."""
    window_us: int = field(init=False)
    interval_us: float = field(init=False)
    """How often a bucket gets a token."""
    window_s: float = field(init=False)
    place: str = field(init=False, repr=False)
    """`KIND:NAME`, what its keys in the store are told apart by.

    The kind is the algorithm: none reads what another has written. Windows of a counter begin at multiples of
    their length, so that its kind has the length, too.
    """
    row: tuple[str, int, int, float, int] = field(init=False, repr=False)
    """The rule as the script takes it: algorithm, count, window (µs), interval (µs), block (µs)."""

    def __post_init__(self) -> None:
        rate = self._rate()
        count = rate.count if rate.burst is None else rate.burst
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "window_us", rate.window_ms * 1_000)
        object.__setattr__(self, "interval_us", rate.window_ms * 1_000 / rate.count)
        object.__setattr__(self, "window_s", rate.window_ms / 1_000)
        kind = f"counter-{rate.window_ms}" if self.algorithm == "counter" else self.algorithm
        object.__setattr__(self, "place", f"{kind}:{self.name}")
        row = (self.algorithm, count, self.window_us, self.interval_us, self.block_ms * 1_000)
        object.__setattr__(self, "row", row)

    def _rate(self) -> Rate:
        if not self.name or not self.name.isprintable() or not self.name.isascii() or len(self.name) > 64:
            raise ValueError(f"rule {self.name!r}: a name is 1 to 64 printable ASCII characters")
        if self.algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise ValueError(f"rule {self.name!r}: no algorithm {self.algorithm!r}; there are {known}")
        try:
            rate = parse_rate(self.limit)
        except ValueError as exc:
            raise ValueError(f"rule {self.name!r}: limit {self.limit!r}: {exc}") from None
        if rate is None:
            raise ValueError(f"rule {self.name!r}: a rule needs a limit, such as 60/60s")
        if rate.burst is not None and self.algorithm != "bucket":
            raise ValueError(f"rule {self.name!r}: limit {self.limit!r}: only the bucket has a burst")
        if self.algorithm == "sliding" and rate.count > LOG_MAX:
            most = f"a sliding log counts to {LOG_MAX} at most"
            raise ValueError(f"rule {self.name!r}: limit {self.limit!r}: {most}")
        if self.block_ms < 0:
            raise ValueError(f"rule {self.name!r}: block_ms is {self.block_ms}; it cannot be negative")
        return rate
