"""The questions of gateways before they let a request through, in Envoy's form and in one that a status answers."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Literal

from presence_server.api import throttle_schema as bodies
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import Reply
from presence_server.throttle.charges import Charge, hit_all
from presence_server.throttle.decision import Decision
from presence_server.throttle.limiter import Limiter
from presence_server.throttle.rule import Rule

KEY_CHARS_MAX: Final = 512
KEY_HEADER: Final = "X-Throttle-Key"
UNITS: Final[dict[int, Literal["SECOND", "MINUTE", "HOUR", "DAY", "WEEK"]]] = {
    1_000_000: "SECOND",
    60_000_000: "MINUTE",
    3_600_000_000: "HOUR",
    86_400_000_000: "DAY",
    604_800_000_000: "WEEK",
}
"""Envoy's names of windows, by their length in µs."""


async def check(limiter: Limiter, body: bodies.CheckRequest) -> Reply:
    """Charge every descriptor, or none where one is refused."""
    found = [_charge(limiter, body, n, descriptor) for n, descriptor in enumerate(body.descriptors)]
    never = [charge is not None and charge.cost > charge.rule.count for charge in found]
    charges = [charge for charge in found if charge is not None]
    if any(never):
        # Nothing can admit it, so nothing is charged.
        decisions = [await limiter.peek(charge.rule, charge.key, 1) for charge in charges]
    else:
        decisions = await hit_all(limiter, charges)
    made = dict(zip((n for n, charge in enumerate(found) if charge is not None), decisions, strict=True))
    statuses = [
        bodies.DescriptorStatus("OK") if charge is None else _status(charge.rule, made[n], over=never[n])
        for n, charge in enumerate(found)
    ]
    refused = any(status.code == "OVER_LIMIT" for status in statuses)
    headers = _headers(decisions) if decisions else {}
    return Reply(
        429 if refused else 200, bodies.CheckAnswer("OVER_LIMIT" if refused else "OK", statuses), headers
    )


def answer_proxy(decision: Decision, refusal: str) -> Reply:
    """Answer a proxy that understands statuses only. Raises `ProblemError` with the one of a refusal."""
    headers = decision.headers()
    if decision.allowed:
        return Reply(204, None, headers)
    detail = f"too many under {decision.rule!r}; try again in {decision.retry_after:.1f} s"
    raise ProblemError(HTTPStatus(int(refusal)), detail, "throttled", headers)


def _charge(
    limiter: Limiter, body: bodies.CheckRequest, n: int, descriptor: bodies.Descriptor
) -> Charge | None:
    """Return what a descriptor is counted as; None: there is no rule for it."""
    if bool(descriptor.rule) == bool(descriptor.entries):
        raise ProblemError(422, f"in the body: descriptors[{n}]: give rule and key, or entries")
    if descriptor.rule:
        rule, key = limiter.rules.get(descriptor.rule), descriptor.key
        if rule is None:
            raise ProblemError(404, f"descriptors[{n}]: no rule {descriptor.rule!r}")
    else:
        path = ".".join(entry.key for entry in descriptor.entries)
        rule = limiter.rules.get(f"{body.domain}.{path}") or limiter.rules.get(path)
        key = _joined([entry.value for entry in descriptor.entries if entry.value])
    if rule is None:
        return None
    if not 0 < len(key) <= KEY_CHARS_MAX:
        raise ProblemError(
            422, f"descriptors[{n}]: its key has {len(key)} characters, not 1 to {KEY_CHARS_MAX}"
        )
    return Charge(rule, key, descriptor.cost or body.hits_addend or 1)


def _joined(values: Sequence[str]) -> str:
    """Return the key that values make: one as it is; of several, no two lists make the same."""
    if len(values) == 1:
        return values[0]
    return "|".join(value.replace("\\", "\\\\").replace("|", "\\|") for value in values)


def _status(rule: Rule, decision: Decision, *, over: bool) -> bodies.DescriptorStatus:
    wait_s = decision.reset_after if decision.allowed else decision.retry_after
    return bodies.DescriptorStatus(
        "OVER_LIMIT" if over or not decision.allowed else "OK",
        max(decision.remaining, 0),
        f"{wait_s:.3f}s",
        bodies.CurrentLimit(rule.name, rule.count, UNITS.get(rule.window_us, "UNKNOWN")),
    )


def _headers(decisions: Sequence[Decision]) -> dict[str, str]:
    """Return the headers of the decision that counts most: a refusal, then the least that is left."""
    return min(decisions, key=lambda decision: (decision.allowed, decision.remaining)).headers()
