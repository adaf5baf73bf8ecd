"""The decisions of a limiter, and the HTTP headers that tell them."""

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from presence_server.throttle import headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from presence_server.throttle.rule import Rule

Late: TypeAlias = Literal["", "self", "store"]
Source: TypeAlias = Literal[
    "redis", "deny_cache", "local", "open", "closed", "allow_list", "deny_list", "share"
]


class Verdict(NamedTuple):
    """The verdict of one rule about one key; times in µs from now.

    `remaining` is what is left after the hit. `retry_us` is when a hit of this cost would be admitted; 0: it
    is. `reset_us` is when the key will be as if it had never been hit.
    """

    allowed: bool
    remaining: int
    retry_us: int
    reset_us: int
    blocked: bool = False
    """Whether it is refused because of a block, and not of what was counted."""


class Decision(NamedTuple):
    """Whether something may happen.

    Of several rules this is the one that refuses, or else the one with the least remaining. `source` says who
    decided: the shared store; this process's memory of a refusal (`deny_cache`); this process alone
    (`local`), or by its part of what was left (`share`); a list (`allow_list`, `deny_list`); or nobody, because the
    store is out of reach (`open` admits, `closed` refuses).
    """

    allowed: bool
    limit: int
    """The most that the rule admits at once."""
    remaining: int
    retry_after: float
    """Seconds until a hit of this cost would be admitted; 0 where it is."""
    reset_after: float
    """Seconds until the key will be as if it had never been hit."""
    rule: str
    source: Source
    window: float
    """The rule's window in seconds."""
    would_deny: bool = False
    """Whether a rule in shadow mode would have refused."""
    checks: "tuple[tuple[Rule, Verdict], ...]" = ()
    """Every rule of the decision with its verdict."""
    late: Late = ""
    """The cause of a decision that took longer than the deadline. `store`: it was made without the store. `self`: this
    process was busy with other things; an answer of the store, if `source` is `redis`, counts all the same."""

    @property
    def retry_after_ms(self) -> int:
        """`retry_after` in whole ms, rounded up."""
        return -int(-self.retry_after * 1_000 // 1)

    @property
    def reset_after_ms(self) -> int:
        """`reset_after` in whole ms, rounded up."""
        return -int(-self.reset_after * 1_000 // 1)

    def headers(self) -> dict[str, str]:
        """Return `RateLimit`, `RateLimit-Policy` and, after a refusal, `Retry-After`; see `throttle/headers.py`."""
        return headers.fields((self,))


def decision_of(
    rules: "Sequence[Rule]", verdicts: "Sequence[Verdict]", source: Source, late: Late = ""
) -> Decision:
    """Make a decision of the verdict of each rule."""
    rule, verdict = rules[0], verdicts[0]
    checks: tuple[tuple[Rule, Verdict], ...] = ((rule, verdict),)
    would_deny = False
    if len(rules) > 1 or (rule.shadow and not verdict.allowed):
        checks = (*zip(rules, verdicts, strict=True),)
        would_deny = any(each.shadow and not said.allowed for each, said in checks)
        rule, verdict = max(checks, key=_severity)
        if rule.shadow and not verdict.allowed:
            verdict = verdict._replace(allowed=True, retry_us=0)
    allowed, remaining, retry_us, reset_us, _ = verdict
    fields = (
        allowed,
        rule.count,
        remaining,
        retry_us / 1e6,
        reset_us / 1e6,
        rule.name,
        source,
        rule.window_s,
        would_deny,
        checks,
        late,
    )
    decision: Decision = tuple.__new__(Decision, fields)  # a named tuple's own constructor is Python
    return decision


def _severity(check: "tuple[Rule, Verdict]") -> tuple[bool, int, int]:
    """Return the sort key of a verdict: refusals last, of these the longest, else the one with the least remaining."""
    rule, verdict = check
    refuses = not verdict.allowed and not rule.shadow
    return refuses, verdict.retry_us if refuses else 0, -verdict.remaining
