"""What is degraded on a node, in words for an operator: pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, get_args

from presence_server.operations.history import Totals
from presence_server.registry.figures import TEXT_MAX, Alert, Level

LAG_WARNING_MS: Final = 100
LAG_CRITICAL_MS: Final = 1_000
FULL: Final = 0.9
"""The part of `server.max_connections` from which a node counts as nearly full."""
UNSENT: Final = 0.5
"""The part of `limits.outbox_total_bytes` from which what is unsent is worth a word."""


class Condition(NamedTuple):
    """How a node is. `checks` are those of `/readyz`, with what is wrong; `lately` is what was counted a minute ago."""

    node: str
    checks: Mapping[str, str]
    draining: bool
    isolated: bool
    rejoining: bool
    limiter_away: bool
    on_error: str
    overload: int
    policy_problem: str
    lag_ms: int
    connections: int
    connections_max: int
    unsent_bytes: int
    unsent_max: int
    lately: Totals
    now: Totals


def alerts(condition: Condition) -> list[Alert]:
    """Return what is degraded, the worst first; the node is the subject of each text."""
    order = get_args(Level)
    found = [Alert(level, kind, text[:TEXT_MAX], condition.node) for level, kind, text in _found(condition)]
    return sorted(found, key=lambda alert: order.index(alert.level))


def _found(c: Condition) -> Iterator[tuple[Level, str, str]]:
    yield from _store(c)
    yield from _load(c)
    if c.draining:
        yield "notice", "draining", "is shutting down: it serves the clients that it has, and takes no others"
    for kind, count, text in (
        (
            "slow_readers",
            c.now.slow_closes - c.lately.slow_closes,
            "closed {} slow clients (4102) within a minute",
        ),
        (
            "faults",
            c.now.faults - c.lately.faults,
            "had {} callbacks that failed within a minute: see the log",
        ),
        (
            "refused_calls",
            c.now.refused_calls - c.lately.refused_calls,
            "was refused {} calls by the store within a minute: see the log",
        ),
    ):
        if count > 0:
            yield "warning", kind, text.format(count)


def _store(c: Condition) -> Iterator[tuple[Level, str, str]]:
    if c.isolated:
        what = "; ".join(text for name, text in sorted(c.checks.items()) if text and name != "draining")
        yield (
            "critical",
            "isolated",
            "has no contact with the store and serves its own clients from memory"
            + (f": {what}" if what else ""),
        )
    elif c.rejoining:
        yield "warning", "rejoining", "is back in contact with the store and enters its members again"
    else:
        for name, text in sorted(c.checks.items()):
            if text and name != "draining":
                yield "warning", "not_ready", f"is not ready: {name}: {text}"
    undecided = c.now.undecided - c.lately.undecided
    if c.limiter_away:
        yield (
            "warning",
            "limiter_away",
            f'does not ask the limiter\'s store: throttle.on_error = "{c.on_error}" decides',
        )
    elif undecided > 0:
        yield (
            "warning",
            "limiter_late",
            f"made {undecided} decisions of the limiter without its store (throttle.on_error) within a minute",
        )
    if c.policy_problem:
        yield "warning", "policy", f"does not understand the limiter's policy: {c.policy_problem}"


def _load(c: Condition) -> Iterator[tuple[Level, str, str]]:
    shed = c.now.shed - c.lately.shed
    if c.overload:
        yield (
            "critical",
            "overloaded",
            f"is overloaded and refuses newcomers: it shed {shed} handshakes and signals within a minute",
        )
    if c.lag_ms >= LAG_WARNING_MS:
        level: Level = "critical" if c.lag_ms >= LAG_CRITICAL_MS else "warning"
        yield level, "lag", f"has an event loop that was {c.lag_ms} ms late"
    if c.connections >= FULL * c.connections_max:
        yield "warning", "full", f"has {c.connections} of at most {c.connections_max} connections"
    if c.unsent_bytes >= UNSENT * c.unsent_max:
        yield (
            "warning",
            "unsent",
            f"keeps {c.unsent_bytes >> 20} of at most {c.unsent_max >> 20} MiB for clients that do not read",
        )
