"""The HTTP headers of limits: `RateLimit`, `RateLimit-Policy`, `Retry-After`, and the problem of a 429.

Written against draft-ietf-httpapi-ratelimit-headers-11 (May 2026), whose two fields are lists of RFC 9651, and
RFC 9457. What those cannot say exactly is left out: a window that is no whole number of seconds, what remains
where nobody has counted, and the rules in shadow mode, which refuse nobody.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from presence_server.throttle.decision import Decision
    from presence_server.throttle.rule import Rule

PROBLEM_JSON: Final = "application/problem+json"
QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""Section 5.1: the client has used up what one or more policies allow."""
REDUCED_CAPACITY: Final = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
"""Section 5.2: it has not, but nobody can count at present."""
TITLES: Final = {QUOTA_EXCEEDED: "Quota Exceeded", REDUCED_CAPACITY: "Temporary Reduced Capacity"}
UNCOUNTED: Final = frozenset({"open", "closed", "allow_list", "deny_list"})
"""The sources of decisions for which nothing was counted."""
UNLIMITED: Final = "allow_list"
"""The source of decisions to which no policy applies."""
SLOTS: Final = "slots"
"""The algorithm of rules that limit how many there are at a time."""
US: Final = 1_000_000
WEEK_US: Final = 7 * 86_400 * US


def fields(decisions: "Sequence[Decision]", policies: "Iterable[Rule]" = ()) -> dict[str, str]:
    """Return the header fields that tell a client of decisions, each with all its rules.

    `policies` are rules that apply and that a decision may not name, such as one from the memory of a refusal.
    After a refusal `Retry-After` is the whole second at which, or after which, the refused may be tried again;
    no effective window (`t`) that is said ends later.
    """
    refused = [decision for decision in decisions if not decision.allowed]
    retry_s = max([1, *(_ceil_s(decision.retry_after) for decision in refused)]) if refused else 0
    limits: dict[str, str] = {}
    quotas: dict[str, str] = {}
    for decision in decisions:
        if decision.source == UNLIMITED:
            continue
        counted = decision.source not in UNCOUNTED
        for rule, verdict in decision.checks:
            if not rule.shadow:
                quotas[rule.name] = _policy(rule)
                if counted:
                    # A slot is held, not used up: it is free again when it is released.
                    back_us = 0 if rule.algorithm == SLOTS else verdict.reset_us
                    effective_us = back_us if verdict.allowed else verdict.retry_us
                    limits[rule.name] = _service_limit(
                        rule.name, verdict.remaining, effective_us / US, retry_s
                    )
        if not decision.checks:
            quotas[decision.rule] = _quota(decision.rule, decision.limit, decision.window * US)
            if counted:
                effective_s = decision.reset_after if decision.allowed else decision.retry_after
                limits[decision.rule] = _service_limit(
                    decision.rule, decision.remaining, effective_s, retry_s
                )
    for rule in policies:
        if rule.name not in quotas and not rule.shadow:
            quotas[rule.name] = _policy(rule)
    fields = {
        "RateLimit": ", ".join(limits.values()),
        "RateLimit-Policy": ", ".join(quotas.values()),
        "Retry-After": str(retry_s) if refused else "",
    }
    return {name: value for name, value in fields.items() if value}


def policy_field(policies: "Iterable[Rule]") -> dict[str, str]:
    """Return the field that tells a client of rules that nothing was decided by."""
    return fields((), policies)


def problem(decision: "Decision", detail: str = "", status: int = 429) -> dict[str, Any]:
    """Return the body of a refusal, an `application/problem+json`."""
    if not detail:
        detail = f"rule {decision.rule!r}: try again in {decision.retry_after:.1f} s"
    if decision.source == "deny_list":
        return plain_problem(status, detail)
    if decision.source == "closed":
        return _problem(REDUCED_CAPACITY, status, detail, [decision.rule])
    violated = [rule.name for rule, verdict in decision.checks if not verdict.allowed and not rule.shadow]
    return exceeded(violated or [decision.rule], detail, status)


def exceeded(policies: "Sequence[str]", detail: str, status: int = 429) -> dict[str, Any]:
    """Return the body of a refusal because of policies, by their names."""
    return _problem(QUOTA_EXCEEDED, status, detail, policies)


def plain_problem(status: int, detail: str) -> dict[str, Any]:
    """Return the body of a refusal that its status says all of."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def _problem(kind: str, status: int, detail: str, policies: "Sequence[str]") -> dict[str, Any]:
    said = {"type": kind, "title": TITLES[kind], "status": status, "detail": detail}
    return {**said, "violated-policies": list(policies)}


def _policy(rule: "Rule") -> str:
    """Return a rule's quota policy item: how much is admitted at once, and in what time all of it comes back."""
    if rule.algorithm == SLOTS:
        return f'{_quota(rule.name, rule.count, 0)};qu="concurrent-requests"'
    window_us = rule.count * rule.interval_us if rule.algorithm == "bucket" else rule.window_us
    if rule.calendar is not None and (rule.tz != "UTC" or window_us > WEEK_US):
        window_us = 0  # not two months, nor two days when clocks change, are equally long
    return _quota(rule.name, rule.count, window_us)


def _quota(name: str, quota: int, window_us: float) -> str:
    """Return a quota policy item (3.1)."""
    seconds = round(window_us / US)
    exact = seconds >= 1 and abs(window_us - seconds * US) < 1
    return f"{_string(name)};q={quota}" + (f";w={seconds}" if exact else "")


def _service_limit(name: str, remaining: int, effective_s: float, retry_s: int) -> str:
    """Return a service limit item (4.1); `t` is when a refusal ends, or else when all is back."""
    whole_s = _ceil_s(effective_s)
    said = whole_s > 0 and (not retry_s or whole_s <= retry_s)
    return f"{_string(name)};r={max(remaining, 0)}" + (f";t={whole_s}" if said else "")


def _string(text: str) -> str:
    """Return a String of RFC 9651, 4.1.6; the names of rules are printable ASCII."""
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def _ceil_s(seconds: float) -> int:
    return -int(-seconds // 1)
